# SPDX-License-Identifier: Apache-2.0
"""ggml_flash_attn_ext: every sequence with all its keys; or, as llama.cpp keeps a shared prefix, one cache of the
prefix and all suffixes, in which a mask says which row sees what. Queries and results are f32."""

import ctypes
import pathlib

import numpy as np

from batch import from_storage

TYPES = ("f32", "f16", "bf16")
LIBRARY = pathlib.Path(__file__).resolve().parents[2] / "build" / "peers" / "ggml" / "driver" / "ggml_driver.so"
KV_TYPES = {"f32": 0, "f16": 1, "bf16": 2}
team = 1


class Shape(ctypes.Structure):
    """AttentionShape of ggml_driver.cpp."""

    _fields_ = [("threads", ctypes.c_int32), ("kv_type", ctypes.c_int32)]
    _fields_ += [(name, ctypes.c_int64) for name in ("batch", "rows", "keys", "Hq", "Hkv", "D", "Dv")]
    _fields_ += [("head_major", ctypes.c_int32), ("scale", ctypes.c_float)]


def _load():
    if not LIBRARY.exists():
        raise ImportError("its driver is not built")
    library = ctypes.CDLL(str(LIBRARY))
    library.attention_version.restype = ctypes.c_char_p
    library.attention_new.restype = ctypes.c_void_p
    library.attention_new.argtypes = [ctypes.POINTER(Shape)] + 5 * [ctypes.c_void_p]
    library.attention_run.argtypes = library.attention_free.argtypes = [ctypes.c_void_p]
    return library


library = _load()


def start(threads):
    global team
    team = threads
    return library.attention_version().decode()


def layouts(problem):
    yield "own copies, token-major", lambda: _own_copies(problem, head_major=False)
    yield "own copies, head-major", lambda: _own_copies(problem, head_major=True)
    if problem.shared > 0:
        yield "one cache, mask", lambda: _one_cache(problem)


class Attention:
    """One call again and again. Holds the arrays that it reads and writes."""

    def __init__(self, problem, q, k, v, seen, head_major=False):
        batch, rows = q.shape[:2]
        keys = k.shape[2 if head_major else 1]
        self.o = np.full((batch, rows, problem.Hq, problem.Dv), np.nan, np.float32)
        mask = None if seen is None else np.where(seen, 0, -np.inf).astype(np.float16)
        self._arrays = [q, k, v, mask, self.o]
        shape = Shape(
            team,
            KV_TYPES[problem.dtype],
            batch,
            rows,
            keys,
            problem.Hq,
            problem.Hkv,
            problem.D,
            problem.Dv,
            head_major,
            problem.scale,
        )
        self._attention = library.attention_new(shape, *[None if x is None else x.ctypes.data for x in self._arrays])

    def __del__(self):
        library.attention_free(self._attention)

    def run(self):
        if library.attention_run(self._attention) != 0:
            raise RuntimeError("ggml_graph_compute failed")


def _own_copies(problem, head_major):
    q = from_storage(problem.q, problem.dtype)
    attention = Attention(problem, q, *problem.own_copies(head_major), problem.mask(), head_major)
    return attention.run, lambda _: attention.o


def _one_cache(problem):
    q = from_storage(problem.q, problem.dtype).reshape(1, -1, problem.Hq, problem.D)
    k, v = (
        np.concatenate([prefix, suffix.reshape(-1, *prefix.shape[1:])])[None]
        for prefix, suffix in zip(problem.prefix(), problem.suffixes())
    )
    attention = Attention(problem, q, k, v, _seen(problem) if problem.keys > problem.shared else None)
    return attention.run, lambda _: attention.o.reshape(problem.count, problem.rows, problem.Hq, problem.Dv)


def _seen(problem):
    """[row of all sequences, key of the cache]: whether it is seen."""
    mask = problem.mask()
    if mask is None:
        mask = np.ones((1, problem.keys), bool)
    own = problem.keys - problem.shared
    seen = np.zeros((problem.count, problem.rows, problem.shared + problem.count * own), bool)
    seen[:, :, : problem.shared] = True
    for sequence in range(problem.count):
        first = problem.shared + sequence * own
        seen[sequence, :, first : first + own] = mask[:, problem.shared :]
    return seen.reshape(problem.count * problem.rows, -1)
