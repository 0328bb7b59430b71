# SPDX-License-Identifier: Apache-2.0
"""torch.nn.functional.scaled_dot_product_attention: one batched call, in which every sequence has all its keys."""

from torch.nn.functional import scaled_dot_product_attention

from torch_tensors import answer, fold, start, tensor, tensors, unfold  # start is the driver's

TYPES = ("f32", "f16", "bf16")


def layouts(problem):
    yield "own copies, head-major, GQA", lambda: _by_heads(problem, head_major=True)
    yield "own copies, token-major, GQA", lambda: _by_heads(problem, head_major=False)
    if problem.group > 1:
        yield "own copies, head-major, group folded into rows", lambda: _folded(problem)


def _mask(problem, repeat=1):
    mask = problem.mask()
    return None if mask is None else tensor(mask, "bool").repeat(repeat, 1)


def _by_heads(problem, head_major):
    k, v = tensors(problem.own_copies(head_major), problem.dtype)
    if not head_major:
        k, v = k.transpose(1, 2), v.transpose(1, 2)
    q = tensor(problem.q, problem.dtype).transpose(1, 2)
    mask, gqa = _mask(problem), problem.group > 1

    def run():
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=problem.scale, enable_gqa=gqa)

    return run, lambda o: answer(o.transpose(1, 2))


def _folded(problem):
    k, v = tensors(problem.own_copies(head_major=True), problem.dtype)
    q, mask = fold(tensor(problem.q, problem.dtype), problem), _mask(problem, problem.group)

    def run():
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=problem.scale)

    return run, lambda o: unfold(o, problem)
