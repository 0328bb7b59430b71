# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on its CPU provider: GroupQueryAttention, which appends the query rows' keys to a cache in place, and
the standard's operator Attention; each sequence has all its keys."""

import numpy as np
import onnxruntime as ort
from onnx import helper

TYPES = ("f32", "f16")
session_options = ort.SessionOptions()


def start(threads):
    session_options.intra_op_num_threads, session_options.inter_op_num_threads = threads, 1
    session_options.log_severity_level = 3
    return ort.__version__


def layouts(problem):
    if problem.rows == 1 or problem.count == 1:  # it refuses a batch of several rows each
        yield "GroupQueryAttention, cache in place", lambda: _group_query(problem)
    yield "Attention, own copies, head-major", lambda: _attention(problem)


def _session(nodes, inputs, outputs, domain, opset):
    """A model of one node; inputs and outputs: name, element type, rank."""

    def value(name, kind, rank):
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), [f"{name}{i}" for i in range(rank)]
        )

    graph = helper.make_graph(nodes, "peer", [value(*x) for x in inputs], [value(*x) for x in outputs])
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), session_options, ["CPUExecutionProvider"])


def _bound(session, inputs, outputs):
    """Runs a session on memory that is bound once."""
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    for name, value in outputs.items():
        binding.bind_ortvalue_output(name, value)
    return lambda: session.run_with_iobinding(binding)


def _value(array):
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _group_query(problem):
    kind, rows, count = problem.q.dtype, problem.rows, problem.count
    inputs = [
        ("query", kind, 3),
        ("key", kind, 3),
        ("value", kind, 3),
        ("past_key", kind, 4),
        ("past_value", kind, 4),
        ("seqlens_k", "int32", 1),
        ("total", "int32", 0),
    ]
    outputs = [("output", kind, 3), ("present_key", kind, 4), ("present_value", kind, 4)]
    node = helper.make_node(
        "GroupQueryAttention",
        [x[0] for x in inputs],
        [x[0] for x in outputs],
        domain="com.microsoft",
        num_heads=problem.Hq,
        kv_num_heads=problem.Hkv,
        scale=problem.scale,
    )
    session = _session([node], inputs, outputs, "com.microsoft", 21)
    k, v = problem.own_copies(head_major=True)

    def new(cache):  # of the query rows: [sequence, row, head * width]
        return _value(cache[:, :, problem.keys - rows :].swapaxes(1, 2).reshape(count, rows, -1))

    cache_k, cache_v = _value(k), _value(v)
    output = _value(np.full((count, rows, problem.Hq * problem.Dv), np.nan, kind))
    run = _bound(
        session,
        {
            "query": _value(problem.q.reshape(count, rows, -1)),
            "key": new(k),
            "value": new(v),
            "past_key": cache_k,
            "past_value": cache_v,
            "seqlens_k": _value(np.full(count, problem.keys - 1, np.int32)),
            "total": _value(np.array(problem.keys, np.int32)),
        },
        {"output": output, "present_key": cache_k, "present_value": cache_v},
    )
    return run, lambda _: output.numpy().reshape(count, rows, problem.Hq, problem.Dv).astype(np.float32)


def _attention(problem):
    kind = problem.q.dtype
    inputs = [("q", kind, 4), ("k", kind, 4), ("v", kind, 4)] + [("mask", "bool", 2)] * (problem.rows > 1)
    node = helper.make_node("Attention", [x[0] for x in inputs], ["o"], scale=problem.scale)
    session = _session([node], inputs, [("o", kind, 4)], None, 23)
    k, v = problem.own_copies(head_major=True)
    output = _value(np.full((problem.count, problem.Hq, problem.rows, problem.Dv), np.nan, kind))
    given = {"q": _value(problem.q.swapaxes(1, 2)), "k": _value(k), "v": _value(v)}
    if problem.rows > 1:
        given["mask"] = _value(problem.mask())
    return _bound(session, given, {"o": output}), lambda _: output.numpy().swapaxes(1, 2).astype(np.float32)
