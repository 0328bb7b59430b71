# SPDX-License-Identifier: Apache-2.0
"""A case on a peer: checked, then timed."""

import batch
import machine
import timing


class Meter:
    def __init__(self, peer, threads, quick):
        self._peer, self._threads = peer, threads
        self._clock = timing.Clock(threads, quick)

    def result_of(self, case):
        """A line of the driver: an entry of Google Benchmark's JSON, or why the peer does not take the case."""
        if case["dtype"] not in self._peer.TYPES:
            return {"declined": f"it does not know {case['dtype']}"}
        name = f"{case['name']}/threads:{self._threads}/{self._peer.NAME}"
        entry = {
            "name": name,
            "run_name": name,
            "run_type": "iteration",
            "repetitions": 1,
            "repetition_index": 0,
            "threads": 1,
        }
        try:
            return {"benchmark": {**entry, **self._measure(batch.Batch(case))}}
        except batch.Declined as reason:
            return {"declined": str(reason)}
        except Exception as error:  # whatever a library raises is the case's result
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            return {"benchmark": {**entry, "error_occurred": True, "error_message": text}}

    def _measure(self, problem):
        _require_memory(2 * problem.own_copies_bytes())  # numpy's and, at worst, the library's
        time, label, error = self._fastest(problem)
        ms = {key: 1e3 * time[key] for key in ("median", "low", "high")}
        return {
            "iterations": 1,
            "real_time": ms["median"],
            "cpu_time": ms["median"],
            "time_unit": "ms",
            "label": label,
            "calls": time["calls"],
            "low_ms": ms["low"],
            "high_ms": ms["high"],
            "busy": time["busy"],
            "max_error": error,
            "FLOP/s": problem.flops() / time["median"],
        }

    def _fastest(self, problem):
        """Time, label and error of the fastest layout. A wrong one ends the case: it must not hide behind another."""
        best = None
        for label, prepare in self._peer.layouts(problem):
            run, answer = prepare()
            error = problem.error(answer(run()))
            time = self._clock.time(run, problem.flushed)
            del run, answer  # and their memory
            if best is None or time["median"] < best[0]["median"]:
                best = time, label, error
        return best


def _require_memory(needed):
    """Raises where memory does not suffice: the system would give it and then end the process."""
    there = machine.available_memory()
    if there is not None and needed > there:
        raise MemoryError(f"needs {needed >> 20} MiB of memory, {there >> 20} are there")
