# SPDX-License-Identifier: Apache-2.0
"""torch's FlashAttention on a GPU: every sequence has all its keys."""

from torch.nn.attention import SDPBackend

import torch_sdpa
from measure import Declined
from torch_cuda import Clock, machine, start, with_backend  # all but the last are the driver's

TYPES = ("bf16", "f16")


def layouts(problem):
    if problem.rows > 1:
        raise Declined("it takes no mask of rows that are the last of their keys")
    return with_backend(torch_sdpa.layouts(problem), SDPBackend.FLASH_ATTENTION)
