# SPDX-License-Identifier: Apache-2.0
"""Workloads as prefixshare_bench --list --json prints them, and the cases that peers run on them.

A case is a plain dictionary, so that it can be sent to another process:
    name       as the benchmarks call it, without threads and peer: "C1/flushed/scale:8/bf16"
    dtype      storage type of q, K and V
    flushed    whether the caches are emptied before each call
    team_only  whether it is left out on one thread
    Hq, Hkv, D, Dv
    nodes      [parent, tokens] of each node of the forest, parents first
    sequences  [last node, query rows] of each sequence; the rows are the last tokens of its path
"""

import json
import math
import re
from collections import namedtuple


class FormatError(Exception):
    """A list of workloads is not what this module reads; one line."""


# Workloads whose names match `workloads` wholly, as the project's own suite times the forward of attention. A quick run
# takes those that match `quick`, in the first type, lengths divided by `quick_scale`.
Line = namedtuple("Line", "workloads quick types flushed quick_scale team_only", defaults=(False, 8, False))
SUITE = [
    Line("C1", ".*", ("bf16", "f32", "f16")),
    Line("C1", ".*", ("bf16", "f32", "f16"), flushed=True),
    Line("C2/.*", ".*", ("f32",)),
    Line("C3", ".*", ("bf16", "f16"), flushed=True),
    Line("C4", ".*", ("f32", "bf16")),
    Line("C5", ".*", ("bf16",)),
    Line("C7/.*", ".*(batch:1|prefix:(8|63))", ("bf16",)),
    Line("sweep/.*", ".*(prefix:16384|batch:64|depth:3|D:64|page:16)", ("bf16",)),
    Line("grid/.*", ".*prefix:(64|1024|16384)/batch:(1|8|64)/.*", ("bf16",), quick_scale=1, team_only=True),
    Line("cpu/W[1-6]b?", ".*W5", ("bf16",), quick_scale=4),
]
DEVICE_SUITE = [Line("gpu/W[1-6]b?", ".*W[15]", ("bf16",), flushed=True, quick_scale=4)]


def read(text, source):
    """The workloads in a text, by name. Names the `source` in what it raises."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise FormatError(f"{source}: this is no JSON, or only a part of it: {error}") from None
    workloads = document.get("workloads") if isinstance(document, dict) else None
    if not isinstance(workloads, list) or not workloads:
        raise FormatError(f'{source}: there is no list "workloads", as prefixshare_bench --list --json prints it')
    for number, workload in enumerate(workloads):
        if not isinstance(workload, dict) or not isinstance(workload.get("name"), str):
            raise FormatError(f"{source}: workload {number} has no name")
    return {workload["name"]: workload for workload in workloads}


def suite(lines, workloads, source, quick):
    """The cases of a suite."""
    cases = []
    for line in lines:
        for name, workload in workloads.items():
            if not re.fullmatch(line.workloads, name) or (quick and not re.fullmatch(line.quick, name)):
                continue
            for dtype in line.types[:1] if quick else line.types:
                scale = line.quick_scale if quick else 1
                cases.append(_case(workload, source, dtype, scale, line.flushed, line.team_only))
    if not cases:
        raise FormatError(f"{source}: none of the suite's workloads ({', '.join(line[0] for line in lines)}) is in it")
    return cases


def chosen(workloads, source, expression, scale):
    """The case of each workload in whose name the expression is found, or that is called so, in its own type; and the
    names of those that are no plain forward of attention, which no peer takes."""
    found = [expression] if expression in workloads else [name for name in workloads if re.search(expression, name)]
    other = [name for name in found if not _is_plain(workloads[name])]
    cases = []
    for name in found:
        if name not in other:
            dtype = _Reader(workloads[name], source).value("kv_dtype", str)
            cases.append(_case(workloads[name], source, dtype, scale))
    return cases, other


def _is_plain(workload):
    """A forward without draft tokens, of which no peer knows the mask, and with one type."""
    one_type = workload.get("q_dtype") == workload.get("kv_dtype")
    return workload.get("task") == "forward" and not workload.get("draft_parents") and one_type


def _case(workload, source, dtype, scale, flushed=False, team_only=False):
    parts = [workload["name"]] + ["flushed"] * flushed + [f"scale:{scale}"] * (scale > 1) + [dtype]
    case = {"name": "/".join(parts), "dtype": dtype, "flushed": flushed, "team_only": team_only}
    return {**case, **_shape_of(workload, source, scale)}


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
    if min(shape.values()) < 1 or shape["Hq"] % shape["Hkv"]:
        raise reader.error(f"its heads and dims are {shape}")
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
