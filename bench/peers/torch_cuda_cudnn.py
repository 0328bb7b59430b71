# SPDX-License-Identifier: Apache-2.0
"""Attention of cuDNN as torch calls it: every sequence has all its keys."""

from torch.nn.attention import SDPBackend

import torch_sdpa
from torch_cuda import Clock, machine, start, with_backend  # all but the last are the driver's

TYPES = ("bf16", "f16")


def layouts(problem):
    return with_backend(torch_sdpa.layouts(problem), SDPBackend.CUDNN_ATTENTION)
