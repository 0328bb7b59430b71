# SPDX-License-Identifier: Apache-2.0
"""What the peers in torch share: start, and tensors of a batch in torch's memory."""

import torch

device = torch.device("cpu")  # torch_cuda makes it another


def start(threads):
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.set_grad_enabled(False)
    return torch.__version__


def tensor(array, dtype):
    """An array of storage type `dtype`, of bool or of integers; on a CPU a view of it."""
    if dtype == "bf16" and array.dtype == "uint16":
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16).to(device)
    return torch.from_numpy(array).to(device)


def tensors(arrays, dtype):
    return [tensor(array, dtype) for array in arrays]


def answer(o):
    """A result [sequence, row, head, Dv] as the driver wants it."""
    return o.float().cpu().numpy()


def fold(q, problem):
    """[sequence, row, head, D] to [sequence, KV head, row of the group, D], contiguous: a group's heads as rows."""
    by_group = q.view(problem.count, problem.rows, problem.Hkv, problem.group, problem.D)
    return by_group.permute(0, 2, 3, 1, 4).reshape(problem.count, problem.Hkv, -1, problem.D).contiguous()


def unfold(o, problem):
    """Back, to an answer."""
    by_group = o.view(problem.count, problem.Hkv, problem.group, problem.rows, problem.Dv)
    return answer(by_group.permute(0, 3, 1, 2, 4).reshape(problem.count, problem.rows, problem.Hq, problem.Dv))
