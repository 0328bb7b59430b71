# SPDX-License-Identifier: Apache-2.0
"""What the peers in torch share on a GPU: the device, and a clock that replays graphs."""

import re
import time

import torch

import timing
import torch_tensors

if not torch.cuda.is_available():
    raise OSError("torch finds no CUDA device")
torch_tensors.device = torch.device("cuda")


def start(threads):
    return f"{torch_tensors.start(threads)}, {torch.cuda.get_device_name()}"


def machine():
    """The device's name as the project's files have it: "NVIDIA H200" is nvidia-h200."""
    return re.sub("[^a-z0-9]+", "-", torch.cuda.get_device_name().lower())[:31].strip("-")


class Clock:
    """Times calls between events of the stream. It does not look for others on the device, so that `busy` is 0."""

    def __init__(self, threads, quick):
        self._limits = timing.Limits(quick)
        self._scratch = None

    def ready(self, call):
        """The call as a graph that is replayed: what it launches costs as little as where an engine does the same."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what a library does once
            call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()

        def replay():
            graph.replay()
            return result

        return replay

    def time(self, call, flushed):
        """What timing.Clock.time gives."""
        seconds, begin = [], time.perf_counter()
        while not self._limits.reached(time.perf_counter() - begin, len(seconds)):
            if flushed:
                self._flush()
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            call()
            events[1].record()
            events[1].synchronize()
            seconds.append(1e-3 * events[0].elapsed_time(events[1]))
        return {**timing.quartiles(seconds), "busy": 0}

    def _flush(self):
        """Writes twice what the L2 cache holds."""
        if self._scratch is None:
            size = 2 * torch.cuda.get_device_properties(torch_tensors.device).L2_cache_size
            self._scratch = torch.empty(size, dtype=torch.uint8, device=torch_tensors.device)
        self._scratch.zero_()


def with_backend(layouts, backend):
    """Layouts of scaled_dot_product_attention, which may take one of its backends only."""
    for label, prepare in layouts:
        yield label, lambda prepare=prepare: _with_backend(*prepare(), backend)


def _with_backend(run, answer, backend):
    def run_with_backend():
        with torch.nn.attention.sdpa_kernel(backend):
            return run()

    return run_with_backend, answer
