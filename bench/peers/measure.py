# SPDX-License-Identifier: Apache-2.0
"""A case on a peer: checked, then timed. Needs only Python."""

import sys


class Declined(Exception):
    """A peer does not take a case, or a layout of it; the reason."""


class Wrong(Exception):
    """An answer is not what attention gives; how."""


class Meter:
    """Measures a peer (see driver.py) with a clock, on what make_problem(case) gives: batch.Batch."""

    def __init__(self, peer, runner, clock, make_problem):
        self._peer, self._runner, self._clock, self._make_problem = peer, runner, clock, make_problem

    def result_of(self, case):
        """A line of the driver: an entry of Google Benchmark's JSON, or why the peer does not take the case."""
        if case["dtype"] not in self._peer.TYPES:
            return {"declined": f"it does not know {case['dtype']}"}
        name = f"{case['name']}/{self._runner}"
        entry = {
            "name": name,
            "run_name": name,
            "run_type": "iteration",
            "repetitions": 1,
            "repetition_index": 0,
            "threads": 1,
        }
        try:
            return {"benchmark": {**entry, **self._measure(self._make_problem(case))}}
        except Declined as reason:
            return {"declined": str(reason)}
        except Wrong as error:
            return {"benchmark": {**entry, "error_occurred": True, "error_message": f"wrong: {error}"}}
        except Exception as error:  # whatever a library raises is the case's result
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            return {"benchmark": {**entry, "error_occurred": True, "error_message": text}}

    def _measure(self, problem):
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
        """Time, label and error of the fastest layout. One that the library refuses goes to the log; a wrong one ends
        the case: it must not hide behind another."""
        best, reason = None, Declined("it has no layout for the case")
        for label, prepare in self._peer.layouts(problem):
            try:
                time, error = self._time(problem, *prepare())
            except Wrong:
                raise
            except Exception as why:
                reason = why.with_traceback(None)  # which holds memory
                print(f"{problem.name}: {label}: {why}", file=sys.stderr)
                continue
            if best is None or time["median"] < best[0]["median"]:
                best = time, label, error
        if best is None:
            raise reason
        return best

    def _time(self, problem, run, answer):
        run = self._clock.ready(run)
        error = problem.error(answer(run()))
        return self._clock.time(run, problem.flushed), error
