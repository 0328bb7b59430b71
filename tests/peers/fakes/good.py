# SPDX-License-Identifier: Apache-2.0
"""A peer that is right: plain attention in numpy, row by row."""

import numpy as np

from batch import from_storage

TYPES = ("f32", "f16", "bf16")


def start(threads):
    print("a library that talks")  # which must not disturb the results
    return "1.0"


def attend(problem, first_key=0, more_keys=0):
    k, v = (from_storage(x, problem.dtype) for x in problem.own_copies(head_major=True))
    q = from_storage(problem.q, problem.dtype)
    o = np.full(q.shape[:3] + (problem.Dv,), np.nan, np.float32)
    for s, r, h in np.ndindex(*q.shape[:3]):
        seen = slice(first_key, problem.visible(r) + more_keys)
        logits = k[s, h // problem.group, seen] @ q[s, r, h] * problem.scale
        weights = np.exp(logits - logits.max())
        o[s, r, h] = weights @ v[s, h // problem.group, seen] / weights.sum()
    return o


def layouts(problem):
    yield "numpy", lambda: (lambda: attend(problem), lambda o: o)
