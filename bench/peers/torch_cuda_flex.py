# SPDX-License-Identifier: Apache-2.0
"""torch's FlexAttention on a GPU, as torch_flex.py has it."""

import torch_cuda
import torch_flex
from torch_cuda import Clock, machine  # the driver's
from torch_flex import layouts

TYPES = ("bf16", "f16")


def start(threads):
    torch_flex.start(threads)
    return torch_cuda.start(threads)
