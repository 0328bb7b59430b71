# SPDX-License-Identifier: Apache-2.0
"""A case's tensors in numpy, and what attention must give on them.

Storage types: numpy's own for f32 and f16; a bf16 is the upper half of an f32, in an unsigned integer.
"""

import itertools

import numpy as np

import machine
from measure import Declined, Wrong

STORAGE = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}

# How far an answer may be off, over the largest value of its row and head. Bounds tell right from wrong, not good from
# better: the sampled queries look at one key each (see Batch), so that a key too much or too few is off by about 1.
BOUND = {"f32": 1e-4, "f16": 1 / 64, "bf16": 1 / 16}
SAMPLES = 8
ROW_KEYS = 1 << 21  # pairs of a row and a key, of all heads together


def to_storage(x, dtype):
    """From f32, rounded to nearest even."""
    if dtype != "bf16":
        return x.astype(STORAGE[dtype], copy=False)
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_storage(x, dtype):
    """To f32."""
    if dtype != "bf16":
        return x.astype(np.float32)
    return (x.astype(np.uint32) << 16).view(np.float32)


class Batch:
    """Equal sequences: `count` of them, each of `keys` tokens, of which the last `rows` are query rows.

    The first `shared` tokens of all paths are the same memory, if there is more than one sequence; every row sees them
    all. Values are normal numbers. Each head of a few sampled rows has a key as its query: the first or last one that
    it may see, one beside the border of a node, or the first that it must not see. It is the key that weighs most, if
    it is seen.
    """

    def __init__(self, case):
        self.name, self.dtype, self.flushed = case["name"], case["dtype"], case["flushed"]
        self.Hq, self.Hkv, self.D, self.Dv = (case[key] for key in ("Hq", "Hkv", "D", "Dv"))
        self.group = self.Hq // self.Hkv
        self.scale = self.D**-0.5
        self._nodes = case["nodes"]
        self.paths = [self._path(node) for node, _ in case["sequences"]]
        lengths = {sum(self._nodes[n][1] for n in path) for path in self.paths}
        rows = {rows for _, rows in case["sequences"]}
        if len(lengths) > 1 or len(rows) > 1:
            raise Declined("its sequences differ in length")
        self.count, self.keys, self.rows = len(self.paths), lengths.pop(), rows.pop()
        self._common = self._common_nodes()
        self._expected = {}
        self.shared = sum(self._nodes[n][1] for n in self.paths[0][: self._common])
        self._fill()

    def _path(self, node):
        path = []
        while node >= 0:
            path.insert(0, node)
            node = self._nodes[node][0]
        return path

    def _common_nodes(self):
        """How many first nodes the paths have in common, which every row sees whole; none if there is one path only."""
        if self.count == 1:
            return 0
        at, end = 0, 0
        while all(len(path) > at and path[at] == self.paths[0][at] for path in self.paths):
            end += self.length(self.paths[0][at])
            if end > self.visible(0):
                break
            at += 1
        return at

    def _fill(self):
        random = np.random.default_rng(1)

        def normal(*shape):
            return to_storage(random.standard_normal(shape, dtype=np.float32), self.dtype)

        self._k = [normal(length, self.Hkv, self.D) for _, length in self._nodes]
        self._v = [normal(length, self.Hkv, self.Dv) for _, length in self._nodes]
        self.q = normal(self.count, self.rows, self.Hq, self.D)  # [sequence, row, head, D]
        self._samples = self._choose_rows(random)
        for number, (sequence, row) in enumerate(self._samples):
            keys = self._own(self._k, sequence)
            borders = self._borders(sequence, row)
            for head in range(self.Hq):
                self.q[sequence, row, head] = keys[borders[(head + number) % len(borders)], head // self.group]

    def _choose_rows(self, random):
        """Up to 8 rows as (sequence, row), fewer where they see much: the last one, the first, some others."""
        rows = self.count * self.rows
        wanted = min(max(ROW_KEYS // (self.keys * self.Hq), 1), SAMPLES)
        corners = [rows - 1, 0, rows - self.rows, self.rows - 1]
        chosen = list(dict.fromkeys(corners + random.integers(0, rows, SAMPLES).tolist()))
        return [divmod(row, self.rows) for row in chosen[:wanted]]

    def _borders(self, sequence, row):
        """Keys of a path that are beside the end of a node or of what the row sees."""
        ends = np.cumsum([self._nodes[n][1] for n in self.paths[sequence]]).tolist() + [self.visible(row)]
        beside = {key for end in ends for key in (end - 1, end)} | {0}
        return sorted(key for key in beside if key < self.keys)

    def _own(self, tensors, sequence):
        return np.concatenate([tensors[n] for n in self.paths[sequence]])

    def visible(self, row):
        """Keys of its path that a row sees."""
        return self.keys - self.rows + row + 1

    def mask(self):
        """[row, key of the path]: whether it is seen. None if every row sees all."""
        if self.rows == 1:
            return None
        return np.arange(self.keys) < np.array([self.visible(row) for row in range(self.rows)])[:, None]

    def own_copies(self, head_major):
        """K and V, every sequence with all its keys: [sequence, key, head, D], or with heads before keys."""
        self._require_memory(self.keys)

        def gather(tensors):
            if not head_major:
                return np.stack([self._own(tensors, s) for s in range(self.count)])
            heads, width = tensors[0].shape[1:]
            out = np.empty((self.count, heads, self.keys, width), tensors[0].dtype)
            for s in range(self.count):
                out[s] = self._own(tensors, s).swapaxes(0, 1)
            return out

        return gather(self._k), gather(self._v)

    def prefix(self):
        """K and V of the shared tokens: [key, head, D]."""
        return tuple(self._join(tensors, self.paths[0][: self._common]) for tensors in (self._k, self._v))

    def suffixes(self):
        """K and V of what is not shared: [sequence, key, head, D]."""
        self._require_memory(self.keys - self.shared)
        own = [path[self._common :] for path in self.paths]
        return tuple(np.stack([self._join(tensors, nodes) for nodes in own]) for tensors in (self._k, self._v))

    def _join(self, tensors, nodes):
        return np.concatenate([tensors[0][:0]] + [tensors[n] for n in nodes])

    def _require_memory(self, keys):
        """For copies of so many keys of each sequence, here and in a library: the system would give more than there is
        and then end the process."""
        size = np.dtype(STORAGE[self.dtype]).itemsize * (self.D + self.Dv)
        needed, there = 2 * self.count * keys * self.Hkv * size, machine.available_memory()
        if there is not None and needed > there:
            raise Declined(f"own copies of {keys} keys each need {needed >> 20} MiB of memory, {there >> 20} are there")

    def node_count(self):
        return len(self._nodes)

    def length(self, node):
        return self._nodes[node][1]

    def node(self, number):
        """K and V of a node: [key, head, D]."""
        return self._k[number], self._v[number]

    def levels(self):
        """For each depth of the forest, its nodes in the order of the sequences, each with the number of sequences in
        a row that have it."""
        if len({len(path) for path in self.paths}) > 1:
            raise Declined("its paths differ in depth")
        return [
            [(node, len(list(same))) for node, same in itertools.groupby(nodes)] for nodes in zip(*self.paths)
        ]

    def flops(self):
        pairs = self.count * sum(self.visible(row) for row in range(self.rows))
        return 2 * (self.D + self.Dv) * self.Hq * pairs

    def expected(self, sequence, row):
        """Attention of a row in f64: [head, Dv]."""
        if (sequence, row) not in self._expected:
            self._expected[sequence, row] = self._attend(sequence, row)
        return self._expected[sequence, row]

    def _attend(self, sequence, row):
        def seen(tensors):  # [KV head, key, width]
            own = from_storage(self._own(tensors, sequence)[: self.visible(row)], self.dtype)
            return own.astype(np.float64).swapaxes(0, 1)

        q = from_storage(self.q[sequence, row], self.dtype).astype(np.float64).reshape(self.Hkv, self.group, self.D)
        logits = q @ seen(self._k).swapaxes(1, 2) * self.scale
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return (weights @ seen(self._v)).reshape(self.Hq, self.Dv)

    def error(self, answer):
        """The largest error of sampled rows in the measure of BOUND. Raises Wrong if there are more."""
        shape = (self.count, self.rows, self.Hq, self.Dv)
        if answer.shape != shape:
            raise Wrong(f"its shape is {answer.shape}, want {shape}")
        if not np.isfinite(answer).all():
            raise Wrong("not every value is finite")
        worst, where = 0.0, (0, 0)
        for sample in self._samples:
            want = self.expected(*sample)
            off = np.abs(answer[sample] - want).max(axis=-1) / np.abs(want).max(axis=-1)
            worst, where = max((worst, where), (float(off.max()), sample))
        if worst > BOUND[self.dtype]:
            sequence, row = where
            bound = BOUND[self.dtype]
            raise Wrong(f"sequence {sequence}, row {row} is off by {worst:.2g}, at most {bound:.2g} is right")
        return worst
