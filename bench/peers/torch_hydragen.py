# SPDX-License-Identifier: Apache-2.0
"""Hydragen (arXiv 2402.05099) in torch's operators: the queries of all sequences against the shared prefix in one call,
each sequence against its suffix in a batched call, and the two parts merged by their logsumexp."""

import torch

from measure import Declined
from torch_tensors import fold, start, tensor, tensors, unfold  # start is the driver's

TYPES = ("f32", "f16", "bf16")


def layouts(problem):
    if problem.shared == 0:
        raise Declined("its sequences share nothing")
    yield "products and softmax", lambda: hydragen(problem, by_products)
    yield "flash operator of SDPA", lambda: hydragen(problem, _by_flash)


def hydragen(problem, attend):
    """attend(q, k, v, scale, mask) gives o and the natural logsumexp, [batch, head, row, Dv] and [batch, head, row]."""
    prefix = [x.transpose(0, 1).contiguous()[None] for x in tensors(problem.prefix(), problem.dtype)]
    suffix = [x.transpose(1, 2).contiguous() for x in tensors(problem.suffixes(), problem.dtype)]
    q = fold(tensor(problem.q, problem.dtype), problem)
    rows, own = q.shape[2], problem.keys - problem.shared
    mask = _suffix_mask(problem, q.dtype) if problem.rows > 1 and own > 0 else None

    def run():
        together = q.transpose(0, 1).reshape(1, problem.Hkv, problem.count * rows, problem.D)
        o, lse = attend(together, *prefix, problem.scale, None)
        o = o.view(problem.Hkv, problem.count, rows, problem.Dv).transpose(0, 1)
        lse = lse.view(problem.Hkv, problem.count, rows).transpose(0, 1)
        return o if own == 0 else _merge(o, lse, *attend(q, *suffix, problem.scale, mask))

    return run, lambda o: unfold(o.contiguous(), problem)


def _suffix_mask(problem, dtype):
    """To be added to the scores of a group's rows."""
    seen = tensor(problem.mask()[:, problem.shared :], "bool")
    nothing = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return nothing.masked_fill_(~seen, float("-inf")).repeat(problem.group, 1)


def by_products(q, k, v, scale, mask):
    """Scores in the storage type, as the product leaves them; softmax in f32."""
    scores = ((q * scale) @ k.transpose(-2, -1)).float()
    if mask is not None:
        scores += mask
    lse = scores.logsumexp(dim=-1)
    return scores.sub_(lse[..., None]).exp_().to(q.dtype) @ v, lse


def _by_flash(q, k, v, scale, mask):
    """What scaled_dot_product_attention runs on a CPU, with the logsumexp that it does not hand out."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask, scale=scale)


def _merge(o1, lse1, o2, lse2):
    weight = torch.sigmoid(lse1 - lse2)[..., None]
    return torch.lerp(o2.float(), o1.float(), weight).to(o1.dtype)
