# SPDX-License-Identifier: Apache-2.0
"""torch's FlexAttention, compiled: every sequence with all its keys; or the prefix and all suffixes packed behind each
other, with a block mask that says which row sees what."""

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import torch_tensors
from torch_tensors import answer, start, tensor, tensors  # start is the driver's

TYPES = ("f32", "f16", "bf16")
torch._dynamo.config.recompile_limit = 1 << 16  # every case has another shape and mask


def layouts(problem):
    yield "own copies, head-major", lambda: _own_copies(problem)
    if problem.shared > 0:
        yield "prefix and suffixes packed, block mask", lambda: _packed(problem)


def _call(problem, q, k, v, block_mask):
    compiled = torch.compile(flex_attention, dynamic=False)
    gqa = problem.group > 1
    return lambda: compiled(q, k, v, scale=problem.scale, enable_gqa=gqa, block_mask=block_mask)


def _own_copies(problem):
    k, v = tensors(problem.own_copies(head_major=True), problem.dtype)
    q = tensor(problem.q, problem.dtype).transpose(1, 2).contiguous()
    before, block_mask = problem.keys - problem.rows, None
    if problem.rows > 1:

        def sees(b, h, row, key):
            return key <= row + before

        block_mask = create_block_mask(sees, None, None, problem.rows, problem.keys, device=torch_tensors.device)
    return _call(problem, q, k, v, block_mask), lambda o: answer(o.transpose(1, 2))


def _packed(problem):
    shared, own, rows = problem.shared, problem.keys - problem.shared, problem.rows
    packed, block_mask = [], None
    for prefix, suffix in zip(problem.prefix(), problem.suffixes()):
        parts = tensors((prefix, suffix.reshape(-1, *suffix.shape[2:])), problem.dtype)
        packed.append(torch.cat(parts).transpose(0, 1).contiguous()[None])
    q = tensor(problem.q, problem.dtype).flatten(0, 1).transpose(0, 1).contiguous()[None]
    if own > 0:

        def sees(b, h, row, key):
            at = key - shared - row // rows * own  # in the suffix of the row's own sequence
            return (key < shared) | ((at >= 0) & (at <= row % rows + own - rows))

        keys = packed[0].shape[2]
        block_mask = create_block_mask(sees, None, None, problem.count * rows, keys, device=torch_tensors.device)

    def unpack(o):
        return answer(o[0].transpose(0, 1).unflatten(0, (problem.count, rows)))

    return _call(problem, q, *packed, block_mask), unpack
