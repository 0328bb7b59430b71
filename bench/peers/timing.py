# SPDX-License-Identifier: Apache-2.0
"""How a call is timed: as include/prefixshare/testing/timing.hpp and bench/support/quiet.hpp say."""

import os
import pathlib
import resource
import statistics
import threading
import time

import numpy as np

import machine

QUIET_CORES = 0.05  # others may use so much
TICK_SECONDS = 0.01
QUIET_TRIES = 3


class Limits:
    """Calls are repeated for so long and so often, but not beyond slow_seconds."""

    def __init__(self, quick):
        self.seconds, self.calls, self.slow_seconds = (0.08, 5, 0.4) if quick else (0.6, 7, 4.0)

    def reached(self, passed, calls):
        return passed >= self.slow_seconds or (passed >= self.seconds and calls >= self.calls)


class Clock:
    """Times calls on `threads` threads; waits for others 60 seconds in all, in a quick run not at all."""

    def __init__(self, threads, quick):
        self.cores = sorted(os.sched_getaffinity(0))[:threads]
        self.limits = Limits(quick)
        self.patience = 0 if quick else 60
        self._scratch = None

    def ready(self, call):
        """The call as it is timed: as it is."""
        return call

    def time(self, call, flushed):
        """What quartiles() gives, and the cores that others used meanwhile; the least disturbed try."""
        best = None
        for _ in range(QUIET_TRIES):
            begin = _cpu_times()
            times = quartiles(self._calls(call, flushed))
            end = _cpu_times()
            result = {**times, "busy": _other_cores(begin, end)}
            if best is None or result["busy"] < best["busy"]:
                best = result
            if best["busy"] == 0 or self.patience <= 0:
                break
            self.patience -= end[0] - begin[0]
            self._wait()
        return best

    def _calls(self, call, flushed):
        seconds = []
        start = time.perf_counter()
        while True:
            if flushed:
                self._flush()
            begin = time.perf_counter()
            call()
            end = time.perf_counter()
            seconds.append(end - begin)
            if self.limits.reached(end - start, len(seconds)):
                break
        return seconds

    def _flush(self):
        """Every core of the team reads twice the last-level cache."""
        if self._scratch is None:
            self._scratch = np.ones(2 * machine.last_level_cache() // 8)

        def read(core):
            os.sched_setaffinity(0, {core})  # of this thread
            self._scratch.sum()

        readers = [threading.Thread(target=read, args=(core,)) for core in self.cores]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()

    def _wait(self):
        """Until the machine is idle, two seconds at most."""
        least = max(0, self.patience - 2)
        others = 1
        while others > 0 and self.patience > least:
            begin = _cpu_times()
            time.sleep(0.2)
            others = _other_cores(begin, _cpu_times())
            self.patience -= 0.2


def quartiles(seconds):
    """Median, quartiles and number of calls."""
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return {"median": median, "low": low, "high": high, "calls": len(seconds)}


def _cpu_times():
    """Seconds of the clock, of CPU time of the whole machine, of CPU time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    try:
        user, nice, system, _, _, irq, soft_irq, steal = map(
            int, pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        )
    except OSError:  # another system: then nobody disturbs
        return time.perf_counter(), 0, 0
    used = TICK_SECONDS * (user + nice + system + irq + soft_irq + steal)
    return time.perf_counter(), used, usage.ru_utime + usage.ru_stime


def _other_cores(begin, end):
    """Cores that others used, less what two ticks leave uncertain; 0 if that is within QUIET_CORES."""
    wall, used, own = (b - a for a, b in zip(begin, end))
    cores = (used - own - 2 * TICK_SECONDS) / wall
    return cores if cores > QUIET_CORES else 0
