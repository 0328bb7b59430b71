# SPDX-License-Identifier: Apache-2.0
"""torch's FlexAttention on a GPU, as torch_flex.py has it."""

from torch_cuda import Clock, machine, start  # the driver's, as is the next
from torch_flex import layouts

TYPES = ("bf16", "f16")
