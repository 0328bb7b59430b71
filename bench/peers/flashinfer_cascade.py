# SPDX-License-Identifier: Apache-2.0
"""FlashInfer on a GPU, on a cache in pages: its cascade, which reads each node of the forest once; and its decode, in
which every sequence reads all pages of its path."""

import flashinfer
import numpy as np
import torch

import torch_cuda
from measure import Declined
from torch_cuda import Clock, machine  # the driver's
from torch_tensors import answer, tensor

TYPES = ("bf16", "f16")
PAGE = 16  # tokens
WORKSPACE_BYTES = 256 << 20


def start(threads):
    return f"{flashinfer.__version__}, torch {torch_cuda.start(threads)}"


def layouts(problem):
    yield "cascade", lambda: _cascade(problem)
    yield "cascade, fa2", lambda: _cascade(problem, "fa2")  # on Hopper it takes fa3, which does not split keys
    if problem.rows == 1:
        yield "decode, pages of the path", lambda: _decode(problem)


class Cache:
    """The nodes in pages of random order; a node begins with a page."""

    def __init__(self, problem):
        lengths = [len(problem.node(n)[0]) for n in range(problem.node_count())]
        counts = [-(-length // PAGE) for length in lengths]
        order = np.random.default_rng(2).permutation(sum(counts)).astype(np.int32)
        self.pages = np.split(order, np.cumsum(counts)[:-1])  # of each node
        self.last = [length - PAGE * (count - 1) for length, count in zip(lengths, counts)]  # tokens of the last page
        self.kv = tuple(self._scatter(problem, which) for which in range(2))

    def _scatter(self, problem, which):
        """K or V: [page, token, head, D]."""
        first = problem.node(0)[which]
        pool = np.zeros((sum(map(len, self.pages)), PAGE, *first.shape[1:]), first.dtype)
        for number, pages in enumerate(self.pages):
            tokens = problem.node(number)[which]
            padded = np.zeros((len(pages) * PAGE, *tokens.shape[1:]), tokens.dtype)
            padded[: len(tokens)] = tokens
            pool[pages] = padded.reshape(len(pages), PAGE, *tokens.shape[1:])
        return tensor(pool, problem.dtype)


def _cascade(problem, backend=None):
    levels = problem.levels()
    last_nodes = {node: count for node, count in levels[-1]}
    if problem.rows > 1 and (max(last_nodes.values()) > 1 or min(map(problem.length, last_nodes)) < problem.rows):
        raise Declined("its rows are not within the last node of their own path")
    cache, q = Cache(problem), tensor(problem.q, problem.dtype).flatten(0, 1)
    wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(len(levels), _workspace(), "NHD")
    if backend is not None:  # the cascade itself has no argument for it
        for level in wrapper._batch_prefill_wrappers:
            level._backend = backend
    arrays = [_level_arrays(level, problem.rows, cache) for level in levels]
    wrapper.plan(
        *(list(column) for column in zip(*arrays)),
        problem.Hq,
        problem.Hkv,
        problem.D,
        PAGE,
        causal=problem.rows > 1,
        sm_scale=problem.scale,
        q_data_type=q.dtype,
        kv_data_type=q.dtype,
    )
    return (lambda: wrapper.run(q, cache.kv)), _answer_of(problem)


def _level_arrays(level, rows, cache):
    """Of a level: where the rows of each node begin, where its pages begin, the pages, tokens of the last page."""
    return (
        _starts([count * rows for _, count in level]),
        _starts([len(cache.pages[node]) for node, _ in level]),
        _integers(np.concatenate([cache.pages[node] for node, _ in level])),
        _integers([cache.last[node] for node, _ in level]),
    )


def _decode(problem):
    cache, q = Cache(problem), tensor(problem.q, problem.dtype).flatten(0, 1)
    if any(cache.last[node] < PAGE for path in problem.paths for node in path[:-1]):
        raise Declined("a node that others follow does not end with its page")
    paths = [np.concatenate([cache.pages[node] for node in path]) for path in problem.paths]
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(_workspace(), "NHD", use_tensor_cores=True)
    wrapper.plan(
        _starts([len(pages) for pages in paths]),
        _integers(np.concatenate(paths)),
        _integers([cache.last[path[-1]] for path in problem.paths]),
        problem.Hq,
        problem.Hkv,
        problem.D,
        PAGE,
        sm_scale=problem.scale,
        q_data_type=q.dtype,
        kv_data_type=q.dtype,
    )
    return (lambda: wrapper.run(q, cache.kv)), _answer_of(problem)


def _answer_of(problem):
    return lambda o: answer(o.view(problem.count, problem.rows, problem.Hq, problem.Dv))


def _workspace():
    return torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")


def _starts(lengths):
    return _integers(np.cumsum([0, *lengths]))


def _integers(values):
    return tensor(np.asarray(values, np.int32), "int32")
