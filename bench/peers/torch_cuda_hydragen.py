# SPDX-License-Identifier: Apache-2.0
"""Hydragen on a GPU, as torch_hydragen.py has it, on the attention of FlashAttention and of cuDNN in torch."""

import torch

from measure import Declined
from torch_cuda import Clock, machine, start  # the driver's
from torch_hydragen import by_products, hydragen

TYPES = ("bf16", "f16")


def layouts(problem):
    if problem.shared == 0:
        raise Declined("its sequences share nothing")
    if problem.rows > 1:
        raise Declined("its operators take no mask of rows that are the last of their keys")
    yield "FlashAttention", lambda: hydragen(problem, _by_flash)
    yield "cuDNN", lambda: hydragen(problem, _by_cudnn)
    yield "products and softmax", lambda: hydragen(problem, by_products)


def _by_flash(q, k, v, scale, mask):
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[:2]


def _by_cudnn(q, k, v, scale, mask):
    o, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, scale=scale)[:2]
    return o, lse.reshape(o.shape[:3])
