#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stage peers of the GPU kit: the workloads in PyTorch and FlashInfer, where they are installed.

Unshared attention (flash and cuDNN SDPA; FlashInfer's decode), Hydragen written in PyTorch (attention over the prefix
and over the suffixes, and a merge), FlashInfer's cascade as it ships and with its fa2 kernels. Each answer is compared
with f32 arithmetic on a few rows before it is timed. A line of JSON per case in FOLDER/peers.jsonl; what is not
installed is named as skipped. --check runs everything that needs no GPU on small shapes: the arithmetic of this file.
"""
import argparse
import gc
import json
import math
import os
import re
import select
import subprocess
import sys
import time

try:
    import torch
except ImportError:
    torch = None

HERE = os.path.dirname(os.path.abspath(__file__))
REPLAYS = 60
CASE_SECONDS = 240  # FlashInfer compiles its kernels when they are first used
STAGE_SECONDS = 440
ERROR_BOUND = 1e-2  # relative, in the 2-norm: bf16 results


class Skip(Exception):
    """The case cannot be run here; why."""


class Workload:
    def __init__(self, line):
        self.name, self.kind, *pairs = line.split()
        fields = dict(pair.split("=", 1) for pair in pairs)
        self.hq, self.hkv = (int(n) for n in fields["heads"].split("/"))
        self.d = 128
        if "tree" in fields:
            counts, tokens = fields["tree"].split("|")
            self.counts = [int(n) for n in counts.split(",")]
            self.tokens = [int(n) for n in tokens.split(",")]
        self.parts, self.rows, self.moved = (int(fields.get(key, 0)) for key in ("parts", "rows", "tokens"))

    def batch(self):
        return self.counts[-1]

    def is_two_level(self):
        return len(self.counts) == 2 and self.counts[0] == 1

    def path_tokens(self):
        return sum(self.tokens)

    def smaller(self):
        """The same with short lengths, for --check."""
        self.d = 16
        if self.kind in ("decode", "train"):
            self.counts = [min(n, 6) for n in self.counts]
            self.tokens = [min(n, 20 + 3 * i) for i, n in enumerate(self.tokens)]
        self.rows, self.moved = min(self.rows, 10), min(self.moved, 10)
        return self


def read_workloads():
    with open(os.path.join(HERE, "workloads.txt")) as file:
        return [Workload(line) for line in file if line.strip() and not line.startswith("#")]


# ---- Attention of [batch, heads, rows, D], with the natural log-sum-exp [batch, heads, rows]


def dense(q, k, v, causal):
    """f32 arithmetic; what answers are compared with, and the kernel of --check. Causal: bottom right."""
    group = q.shape[1] // k.shape[1]
    k, v = k.float().repeat_interleave(group, 1), v.float().repeat_interleave(group, 1)
    scores = q.float() @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
        scores = scores.masked_fill(hidden.triu(1 + scores.shape[-1] - scores.shape[-2]), -math.inf)
    lse = torch.logsumexp(scores, -1)
    return torch.exp(scores - lse[..., None]) @ v, lse


def dense_backward(dout, q, k, v, out, lse, causal):
    group = q.shape[1] // k.shape[1]
    kg, vg = k.float().repeat_interleave(group, 1), v.float().repeat_interleave(group, 1)
    scale = 1 / math.sqrt(q.shape[-1])
    p = torch.exp(q.float() @ kg.transpose(-1, -2) * scale - lse[..., None])
    if causal:
        p = p.tril(p.shape[-1] - p.shape[-2])
    delta = (dout.float() * out.float()).sum(-1, keepdim=True)
    ds = p * (dout.float() @ vg.transpose(-1, -2) - delta) * scale
    per_group = [x.unflatten(1, (-1, group)).sum(2) for x in (ds.transpose(-1, -2) @ q.float(),
                                                              p.transpose(-1, -2) @ dout.float())]
    return (ds @ kg, *per_group)


class Flash:
    """PyTorch's copy of FlashAttention-2."""
    name = "torch-flash"

    @staticmethod
    def forward(q, k, v, causal):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False)[:2]

    @staticmethod
    def backward(dout, q, k, v, out, lse, causal):
        zero = torch.zeros((), dtype=torch.int64, device=q.device)  # of the dropout that there is not
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(
            dout, q, k, v, out, lse, None, None, q.shape[2], k.shape[2], 0.0, causal, zero, zero)


class Cudnn:
    name = "torch-cudnn"

    @staticmethod
    def forward(q, k, v, causal):
        out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, causal, False)
        return out, lse.reshape(out.shape[:3])

    @staticmethod
    def backward(dout, q, k, v, out, lse, causal):
        zero = torch.zeros((), dtype=torch.int64, device=q.device)
        return torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            dout, q, k, v, out, lse[..., None], zero, zero, None, None, None, q.shape[2], k.shape[2], 0.0, causal)


class Dense:
    name = "dense"
    forward = staticmethod(dense)
    backward = staticmethod(dense_backward)


def merge(o_a, lse_a, o_b, lse_b):
    lse = torch.logaddexp(lse_a, lse_b)
    w_a, w_b = torch.exp(lse_a - lse)[..., None], torch.exp(lse_b - lse)[..., None]
    return (w_a * o_a + w_b * o_b).to(o_a.dtype), lse


# ---- Input sets. Each contender gets several, in turn, so that the caches do not hold what it reads.


class Inputs:
    """K and V of each level's nodes, [nodes, Hkv, tokens, D], and q of the leaves, [leaves, Hq, D]."""

    def __init__(self, w, device, seed):
        gen = torch.Generator(device=device).manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=gen, device=device).to(torch.bfloat16)
        self.k = [draw(n, w.hkv, t, w.d) for n, t in zip(w.counts, w.tokens)]
        self.v = [draw(n, w.hkv, t, w.d) for n, t in zip(w.counts, w.tokens)]
        self.q = draw(w.batch(), w.hq, w.d)

    def path(self, w, x, leaf):
        """Keys or values of a leaf's path, [1, Hkv, tokens, D]."""
        return torch.cat([level[leaf * n // w.batch()] for level, n in zip(x, w.counts)], 1)[None]


class Training:
    """Packed: q, k, v and dout of the prefix [1, H, P, D] and of the members [G, H, S, D]."""

    def __init__(self, w, device, seed):
        gen = torch.Generator(device=device).manual_seed(seed)
        draw = lambda n, h, t: torch.randn(n, h, t, w.d, generator=gen, device=device).to(torch.bfloat16)
        shapes = list(zip(w.counts, w.tokens))
        self.q, self.dout = ([draw(n, w.hq, t) for n, t in shapes] for _ in range(2))
        self.k, self.v = ([draw(n, w.hkv, t) for n, t in shapes] for _ in range(2))


def whole(prefix, own):
    return torch.cat([prefix.expand(own.shape[0], -1, -1, -1), own], 2)


# ---- Contenders: prepare(workload, inputs) gives a call without arguments, which returns what `answer` compares


def unshared(kernel):
    def prepare(w, x):
        need = 4.0 * w.batch() * w.path_tokens() * w.hkv * w.d
        free = torch.cuda.mem_get_info()[0] if x.q.is_cuda else math.inf
        if need > 0.8 * free:
            raise Skip("whole copies of K and V take %.0f GB" % (need / 1e9))
        k, v = (torch.cat([x.path(w, level, leaf) for leaf in range(w.batch())]) for level in (x.k, x.v))
        q = x.q.unflatten(1, (w.hkv, -1))  # the heads of a group as rows: no mask is needed
        return lambda: kernel.forward(q, k, v, False)[0].reshape(w.batch(), w.hq, w.d)
    return prepare


def hydragen(kernel):
    def prepare(w, x):
        if not w.is_two_level():
            raise Skip("it knows one prefix")
        group = w.hq // w.hkv
        rows = x.q.unflatten(1, (w.hkv, group))  # [B, Hkv, g, D]

        def run():
            packed = rows.permute(1, 0, 2, 3).reshape(1, w.hkv, w.batch() * group, w.d)
            o_a, lse_a = kernel.forward(packed, x.k[0], x.v[0], False)
            o_b, lse_b = kernel.forward(rows, x.k[1], x.v[1], False)
            back = lambda t, *rest: t.reshape(w.hkv, w.batch(), group, *rest).transpose(0, 1)
            return merge(back(o_a, w.d), back(lse_a), o_b, lse_b)[0].reshape(w.batch(), w.hq, w.d)
        return run
    return prepare


def flashinfer_module():
    try:
        import flashinfer
        return flashinfer
    except ImportError as error:
        raise Skip("flashinfer is not installed: %s" % error)


class PagedCache:
    """All nodes in pages of 16 tokens in random order, as [pages, 2, 16, Hkv, D], and each node's pages."""
    PAGE = 16

    def __init__(self, w, x):
        if any(t % self.PAGE for t in w.tokens):
            raise Skip("a node does not end with a page")
        per_node = [t // self.PAGE for t in w.tokens]
        total = sum(n * p for n, p in zip(w.counts, per_node))
        order = torch.randperm(total, device=x.q.device)
        self.kv = torch.empty(total, 2, self.PAGE, w.hkv, w.d, dtype=x.q.dtype, device=x.q.device)
        self.pages, first = [], 0
        for level, (n, p) in enumerate(zip(w.counts, per_node)):
            ids = order[first:first + n * p].reshape(n, p)
            for which, part in enumerate((x.k[level], x.v[level])):
                tokens = part.transpose(1, 2).reshape(n * p, self.PAGE, w.hkv, w.d)
                self.kv[ids.flatten(), which] = tokens
            self.pages.append(ids.int())
            first += n * p

    def level(self, w, i, device):
        """qo_indptr, kv_indptr, indices and last page lengths of one level of a cascade."""
        n, p = self.pages[i].shape
        rows = torch.arange(n + 1) * (w.batch() // n)
        return rows.int().to(device), (torch.arange(n + 1) * p).int().to(device), self.pages[i].flatten(), \
            torch.full((n,), self.PAGE, dtype=torch.int32, device=device)


def flashinfer_cascade(force_fa2):
    def prepare(w, x):
        flashinfer = flashinfer_module()
        cache = PagedCache(w, x)
        levels = [cache.level(w, i, x.q.device) for i in range(len(w.counts))]
        workspace = torch.empty(256 << 20, dtype=torch.uint8, device=x.q.device)
        wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(len(levels), workspace, "NHD")
        if force_fa2:
            for level in wrapper._batch_prefill_wrappers:
                level._backend = "fa2"
        started = time.perf_counter()
        wrapper.plan(*(list(arrays) for arrays in zip(*levels)), w.hq, w.hkv, w.d, PagedCache.PAGE, causal=False,
                     q_data_type=x.q.dtype)
        planned = time.perf_counter() - started
        run = lambda: wrapper.run(x.q, cache.kv)
        run.plan_us = 1e6 * planned
        return run
    return prepare


def flashinfer_decode(w, x):
    flashinfer = flashinfer_module()
    cache = PagedCache(w, x)
    batch = w.batch()
    pages = torch.cat([ids.repeat_interleave(batch // ids.shape[0], 0) for ids in cache.pages], 1)
    workspace = torch.empty(256 << 20, dtype=torch.uint8, device=x.q.device)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
    indptr = (torch.arange(batch + 1) * pages.shape[1]).int().to(x.q.device)
    last = torch.full((batch,), PagedCache.PAGE, dtype=torch.int32, device=x.q.device)
    started = time.perf_counter()
    wrapper.plan(indptr, pages.flatten().contiguous(), last, w.hq, w.hkv, w.d, PagedCache.PAGE, q_data_type=x.q.dtype)
    planned = time.perf_counter() - started
    run = lambda: wrapper.run(x.q, cache.kv)
    run.plan_us = 1e6 * planned
    return run


def unshared_training(kernel):
    def prepare(w, x):
        q, k, v, dout = (whole(*t) for t in (x.q, x.k, x.v, x.dout))

        def run():
            out, lse = kernel.forward(q, k, v, True)
            dq, dk, dv = kernel.backward(dout, q, k, v, out, lse, True)
            p = w.tokens[0]
            return out[:, :, p:], dk[:, :, :p].float().sum(0, keepdim=True), dk[:, :, p:]
        return run
    return prepare


def hydragen_training(kernel):
    """The parts' backwards start from the merged o and lse, so that they are independent."""
    def prepare(w, x):
        group, (p, s), members = w.hq // w.hkv, w.tokens, w.counts[1]
        pack = lambda t: t.unflatten(1, (w.hkv, group)).permute(1, 0, 2, 3, 4).reshape(1, w.hkv, -1, w.d)
        unpack = lambda t, *rest: t.reshape(w.hkv, members, group, s, *rest).transpose(0, 1).reshape(
            members, w.hq, s, *rest)
        pack_lse = lambda t: t.unflatten(1, (w.hkv, group)).permute(1, 0, 2, 3).reshape(1, w.hkv, -1)
        q_packed, dout_packed = pack(x.q[1]), pack(x.dout[1])

        def run():
            o_p, lse_p = kernel.forward(x.q[0], x.k[0], x.v[0], True)
            o_x, lse_x = kernel.forward(q_packed, x.k[0], x.v[0], False)
            o_s, lse_s = kernel.forward(x.q[1], x.k[1], x.v[1], True)
            out, lse = merge(unpack(o_x, w.d), unpack(lse_x), o_s, lse_s)
            _, dk_p, _ = kernel.backward(x.dout[0], x.q[0], x.k[0], x.v[0], o_p, lse_p, True)
            _, dk_x, _ = kernel.backward(dout_packed, q_packed, x.k[0], x.v[0], pack(out), pack_lse(lse), False)
            _, dk_s, _ = kernel.backward(x.dout[1], x.q[1], x.k[1], x.v[1], out, lse, True)
            # The prefix's own rows occur once here, and in each whole sequence there.
            return out, members * dk_p.float() + dk_x.float(), dk_s
        return run
    return prepare


class States:
    def __init__(self, w, device, seed):
        gen = torch.Generator(device=device).manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=gen, device=device)
        self.o = draw(w.rows, w.parts, w.hq, w.d).to(torch.bfloat16)
        self.lse = draw(w.rows, w.parts, w.hq)


def merge_torch(w, x):
    return lambda: (torch.softmax(x.lse, 1)[..., None] * x.o).sum(1).to(x.o.dtype)


def merge_flashinfer(w, x):
    flashinfer = flashinfer_module()
    base2 = x.lse * math.log2(math.e)
    return lambda: flashinfer.merge_states(x.o, base2)[0]


class Keys:
    def __init__(self, w, device, seed):
        gen = torch.Generator(device=device).manual_seed(seed)
        self.k = torch.randn(w.moved, w.hkv, w.d, generator=gen, device=device).to(torch.bfloat16)
        self.angle = 1234 * 10000.0 ** (-torch.arange(0, w.d, 2, dtype=torch.float64, device=device) / w.d)


def shift_torch(w, x):
    cos, sin = torch.cos(x.angle).float(), torch.sin(x.angle).float()

    def run():
        a, b = x.k.float().chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.k.dtype)
    return run


# ---- What each answer must be, on a few rows


def sampled(count):
    return sorted({0, count // 2, count - 1})


def decode_answer(w, x, got):
    rows = sampled(w.batch())
    want = [dense(x.q[leaf][None, :, None], x.path(w, x.k, leaf), x.path(w, x.v, leaf), False)[0] for leaf in rows]
    return got[rows], torch.stack([o.reshape(w.hq, w.d) for o in want])


def training_answer(w, x, got):
    """The last member's rows of one group of heads, and the gradient of its keys."""
    group, last = w.hq // w.hkv, slice(-1, None)
    q, dout = (whole(t[0], t[1][last])[:, :group] for t in (x.q, x.dout))
    k, v = (whole(t[0], t[1][last])[:, :1] for t in (x.k, x.v))
    out, lse = dense(q, k, v, True)
    dk = dense_backward(dout, q, k, v, out.to(q.dtype), lse, True)[1]
    p = w.tokens[0]
    mine = [got[0][last][:, :group], got[2][last][:, :1]]
    return torch.cat([t.float().flatten() for t in mine]), torch.cat([out[:, :, p:].flatten(), dk[:, :, p:].flatten()])


def states_answer(w, x, got):
    rows = sampled(w.rows)
    weights = torch.softmax(x.lse[rows].double(), 1)
    return got[rows], (weights[..., None] * x.o[rows].double()).sum(1)


def keys_answer(w, x, got):
    a, b = x.k.double().chunk(2, -1)
    cos, sin = torch.cos(x.angle), torch.sin(x.angle)
    return got, torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


CUDA_KERNELS = (Flash, Cudnn)


def contenders(kernels):
    """Kind of workload -> inputs, answer, [(name, prepare)]."""
    decode = [("unshared/" + k.name, unshared(k)) for k in kernels] + [("hydragen/" + k.name, hydragen(k)) for k in kernels]
    train = [("unshared/" + k.name, unshared_training(k)) for k in kernels]
    train += [("hydragen/" + k.name, hydragen_training(k)) for k in kernels]
    shipped = [("unshared/flashinfer-decode", flashinfer_decode), ("cascade/flashinfer", flashinfer_cascade(False)),
               ("cascade/flashinfer-fa2", flashinfer_cascade(True))]
    return {
        "decode": (Inputs, decode_answer, decode + shipped),
        "train": (Training, training_answer, train),
        "merge": (States, states_answer, [("torch", merge_torch), ("flashinfer", merge_flashinfer)]),
        "shift": (Keys, keys_answer, [("torch", shift_torch)]),
        "verify": (None, None, [("tree masks", None)]),
    }


def cases(kernels):
    table = contenders(kernels)
    return {"%s/%s" % (w.name, name): (w, prepare, *table[w.kind][:2])
            for w in read_workloads() for name, prepare in table[w.kind][2]}


def error_of(got, want):
    got, want = got.double().cpu(), want.double().cpu()
    return float((got - want).norm() / want.norm())


# ---- Timing


def times_of(calls):
    """Microseconds of each replay of the calls' graphs, one after the other."""
    graphs = []
    for call in calls:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            call()
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        graphs.append(graph)
    times = []
    for i in range(REPLAYS + len(graphs)):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graphs[i % len(graphs)].replay()
        end.record()
        end.synchronize()
        if i >= len(graphs):  # the first round warms up
            times.append(1e3 * begin.elapsed_time(end))
    return sorted(times)


def run_case(name):
    """The line of a case."""
    w, prepare, inputs, answer = cases(CUDA_KERNELS)[name]
    if prepare is None:
        raise Skip("no peer here takes tree masks")
    sets = [inputs(w, "cuda", seed) for seed in range(3)]
    calls = [prepare(w, x) for x in sets]
    got = calls[0]()
    torch.cuda.synchronize()
    error = error_of(*answer(w, sets[0], got))
    if not error <= ERROR_BOUND:
        return {"outcome": "failed", "text": "its answer is off by %.3g" % error}
    times = times_of(calls)
    line = {"outcome": "passed", "us": times[len(times) // 2], "minimum_us": times[0],
            "p90_us": times[len(times) * 9 // 10], "error": error}
    if hasattr(calls[0], "plan_us"):
        line["plan_us"] = calls[0].plan_us
    return line


def main_cases(names):
    """In a process of its own: a line for each. After a failure the device may be of no more use: the process ends."""
    for name in names:
        gc.collect()
        torch.cuda.empty_cache()
        try:
            line = run_case(name)
        except Skip as why:
            line = {"outcome": "skipped", "text": str(why)}
        except torch.cuda.OutOfMemoryError:
            line = {"outcome": "skipped", "text": "out of memory"}
        except Exception as error:  # a peer's failure is a result
            line = {"outcome": "failed", "text": "%s: %s" % (type(error).__name__, str(error).split("\n")[0][:200])}
        print("RESULT " + json.dumps(line), flush=True)
        if line["outcome"] == "failed":
            break


class Child:
    """A process that runs cases, followed line by line."""

    def __init__(self, names):
        command = [sys.executable, os.path.abspath(__file__)] + ["--case=" + name for name in names]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.text = b""

    def result(self, seconds):
        """Of the next case; None: the process ended before it began one."""
        end = time.monotonic() + seconds
        while True:
            *lines, self.text = self.text.split(b"\n")
            for i, line in enumerate(lines):
                if line.startswith(b"RESULT "):
                    self.text = b"\n".join(lines[i + 1:] + [self.text])
                    return json.loads(line[7:])
                self.said = line.decode(errors="replace")
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                self.process.kill()
                return {"outcome": "timed out", "text": "no end after %.0f s" % seconds}
            more = os.read(self.process.stdout.fileno(), 65536)
            if not more:
                code = self.process.wait()
                return {"outcome": "crashed", "text": "exit code %d: %s" % (code, self.said[-200:])} if code else None
            self.text += more

    said = ""


def results(names):
    """(name, line) of each case, in few processes: starting one takes seconds."""
    started, child = time.monotonic(), None
    for i, name in enumerate(names):
        left = STAGE_SECONDS - (time.monotonic() - started)
        if left < 10:
            print("unfinished: %d cases are left for --resume" % (len(names) - i))
            return
        line = child.result(min(left, CASE_SECONDS)) if child else None
        if line is None:
            child = Child(names[i:])
            line = child.result(min(left, CASE_SECONDS)) or {"outcome": "crashed", "text": "no answer"}
        if line["outcome"] in ("timed out", "crashed"):
            child = None
        yield name, line


def check():
    """Every contender that is written here, with dense kernels on the CPU."""
    failed = 0
    for name, (w, prepare, inputs, answer) in cases((Dense,)).items():
        if prepare is None:
            continue
        w.smaller()
        try:
            x = inputs(w, "cpu", 1)
            error = error_of(*answer(w, x, prepare(w, x)()))
        except Skip as why:
            print("skipped %s: %s" % (name, why))
            continue
        failed += not error <= ERROR_BOUND
        print("%s %s: %.3g" % ("passed" if error <= ERROR_BOUND else "failed", name, error))
    return 1 if failed else 0


LAYOUTS = {"merge": "merge_states", "shift": "rope_shift"}


def write_file(folder):
    """<gpu>-<date>-peers.json: the lines as prefixshare_bench and ./run report know them."""
    with open(os.path.join(folder, "peers.jsonl")) as file:
        head, *lines = [json.loads(line) for line in file]
    kinds = {w.name: w.kind for w in read_workloads()}
    benchmarks = []
    for line in lines:
        workload, _, peer = line["case"].partition("/")
        entry = {"name": "gpu/%s/%s/bf16/threads:1/%s" % (workload, LAYOUTS.get(kinds[workload], "page:16"),
                                                         peer.replace("/", ":"))}
        if line["outcome"] == "passed":
            entry.update(run_type="iteration", real_time=line["us"], time_unit="us", low_ms=1e-3 * line["minimum_us"],
                         high_ms=1e-3 * line["p90_us"], error=line["error"])
        elif line["outcome"] == "skipped":
            continue
        else:
            entry.update(error_occurred=True, error_message=line["text"])
        benchmarks.append(entry)
    machine = re.sub("[^a-z0-9]+", "-", head["device"].lower())[:31].strip("-")
    context = {"date": head["date"], "machine": machine, "cpu": head["device"], "peer": head["peer"]}
    path = os.path.join(folder, "%s-%s-peers.json" % (machine, head["date"][:10]))
    with open(path, "w") as file:
        file.write('{"context": %s,\n"benchmarks": [\n  %s\n]}\n' %
                   (json.dumps(context), ",\n  ".join(json.dumps(b) for b in benchmarks)))
    print(path)


def peer_name():
    try:
        import flashinfer
        return "PyTorch %s, FlashInfer %s" % (torch.__version__, flashinfer.__version__)
    except ImportError:
        return "PyTorch %s" % torch.__version__


def finished(path):
    if not os.path.exists(path):
        return set()
    with open(path) as file:
        return {json.loads(line).get("case") for line in file if line.endswith("}\n")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default=".")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--quick", action="store_true", help="W1, W3 and W8 only")
    parser.add_argument("--case", action="append", help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    path = os.path.join(options.out, "peers.jsonl")
    if torch is None:
        print("skipped: PyTorch is not installed")
        with open(path, "a" if options.resume else "w") as file:
            file.write(json.dumps({"case": "torch", "outcome": "skipped", "text": "PyTorch is not installed"}) + "\n")
        return 0
    if options.check:
        return check()
    if options.case:
        return main_cases(options.case)
    if not torch.cuda.is_available():
        print("no CUDA device: PyTorch finds none")
        return 77
    done = finished(path) if options.resume else set()
    todo = [n for n in cases(CUDA_KERNELS) if n not in done]
    if options.quick:
        todo = [n for n in todo if n.split("/")[0] in ("W1", "W3", "W8")]
    failed, count = 0, 0
    with open(path, "a" if options.resume else "w") as file:
        if not done:
            head = {"stage": "peers", "peer": peer_name(), "device": torch.cuda.get_device_name(),
                    "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
            file.write(json.dumps(head) + "\n")
        for name, result in results(todo):
            line = {"case": name, **result}
            count += 1
            failed += line["outcome"] not in ("passed", "skipped")
            file.write(json.dumps(line) + "\n")
            file.flush()
            print("%-9s %-32s %s" % (line["outcome"], name, line.get("text") or "%.1f us" % line["us"]), flush=True)
    write_file(options.out)
    return 1 if failed else 75 if count < len(todo) else 0


if __name__ == "__main__":
    sys.exit(main())
