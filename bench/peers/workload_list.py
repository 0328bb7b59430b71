# SPDX-License-Identifier: Apache-2.0
"""Workloads as prefixshare_bench --list --json prints them, and the cases that peers run on them.

A case is a plain dictionary, so that it can be sent to another process:
    name       as the benchmarks call it, without threads and peer: "C1/flushed/scale:8/bf16"
    dtype      storage type of q, K and V
    flushed    whether the caches are emptied before each call
    Hq, Hkv, D, Dv
    nodes      [parent, tokens] of each node of the forest, parents first
    sequences  [last node, query rows] of each sequence; the rows are the last tokens of its path
"""

import json
import math
import re

QUICK_SCALE = 8  # a quick run divides lengths by it, as the project's own does


class FormatError(Exception):
    """A list of workloads is not what this module reads; one line."""


# Workload, whether the caches are flushed, types: what the project's own suite times of the forward of attention.
SUITE = [
    ("C1", False, ("bf16", "f32", "f16")),
    ("C1", True, ("bf16", "f32", "f16")),
    ("C2/.*", False, ("f32",)),
    ("C3", True, ("bf16", "f16")),
    ("C4", False, ("f32", "bf16")),
    ("C5", False, ("bf16",)),
    ("sweep/(prefix|batch):.*", False, ("bf16",)),
]


def read(text, source):
    """The workloads in a text, by name. Names the `source` in what it raises."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise FormatError(f"{source}: this is no JSON: {error}") from None
    workloads = document.get("workloads") if isinstance(document, dict) else None
    if not isinstance(workloads, list) or not workloads:
        raise FormatError(f'{source}: there is no list "workloads", as prefixshare_bench --list --json prints it')
    for number, workload in enumerate(workloads):
        if not isinstance(workload, dict) or not isinstance(workload.get("name"), str):
            raise FormatError(f"{source}: workload {number} has no name")
    return {workload["name"]: workload for workload in workloads}


def cases_of(workloads, source, quick, pattern):
    """The suite's cases in whose names the regular expression `pattern` is found."""
    cases = []
    for name_pattern, flushed, types in SUITE:
        for name, workload in workloads.items():
            if not re.fullmatch(name_pattern, name):
                continue
            shape = _shape_of(workload, source, QUICK_SCALE if quick else 1)
            cases += [_case(name, shape, dtype, flushed, quick) for dtype in types]
    if not cases:
        raise FormatError(f"{source}: none of the suite's workloads ({', '.join(line[0] for line in SUITE)}) is in it")
    return [case for case in cases if re.search(pattern, case["name"])]


def _case(workload, shape, dtype, flushed, quick):
    parts = [workload] + ["flushed"] * flushed + [f"scale:{QUICK_SCALE}"] * quick + [dtype]
    return {"name": "/".join(parts), "dtype": dtype, "flushed": flushed, **shape}


def _shape_of(workload, source, scale):
    reader = _Reader(workload, source)
    if reader.value("task", str) != "forward" or reader.value("draft_parents", list):
        raise reader.error("a forward without draft tokens was expected")
    nodes, sequences = reader.value("nodes", dict), reader.value("sequences", dict)
    parent, length = reader.column(nodes, "nodes", "parent"), reader.column(nodes, "nodes", "length")
    node, rows = reader.column(sequences, "sequences", "node"), reader.column(sequences, "sequences", "q_rows")
    good = len(parent) == len(length) and len(node) == len(rows) > 0
    good = good and all(-1 <= p < i for i, p in enumerate(parent)) and all(n > 0 for n in length + rows)
    if not good or not all(0 <= n < len(parent) for n in node):
        raise reader.error("its nodes and sequences are no forest")
    shape = {key: reader.value(key, int) for key in ("Hq", "Hkv", "D", "Dv")}
    shape["nodes"] = [[p, math.ceil(n / scale)] for p, n in zip(parent, length)]
    shape["sequences"] = [[n, math.ceil(r / scale)] for n, r in zip(node, rows)]
    return shape


class _Reader:
    """Members of one workload, of the type that they must have."""

    def __init__(self, workload, source):
        self.workload, self.source = workload, source

    def error(self, what):
        return FormatError(f"{self.source}: workload {self.workload['name']}: {what}")

    def value(self, key, kind):
        found = self.workload.get(key)
        if not isinstance(found, kind):
            raise self.error(f'"{key}" is {_told(found)}, want {kind.__name__}')
        return found

    def column(self, table, table_name, key):
        found = table.get(key)
        if not isinstance(found, list) or not all(type(n) is int for n in found):
            raise self.error(f'"{table_name}"."{key}" is {_told(found)}, want a list of integers')
        return found


def _told(value):
    if value is None:
        return "missing"
    text = json.dumps(value)
    return text if len(text) < 40 else text[:36] + " ..."
