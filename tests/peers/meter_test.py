# SPDX-License-Identifier: Apache-2.0
"""How a case becomes a result, with made-up problems, peers and clocks: nothing wrong is timed. Needs only Python."""

import contextlib
import io
import pathlib
import sys
import types
import unittest

PEERS = pathlib.Path(__file__).resolve().parents[2] / "bench" / "peers"
sys.dont_write_bytecode = True
sys.path.insert(0, str(PEERS))

import measure  # noqa: E402

CASE = {"name": "C1/bf16", "dtype": "bf16"}


class Problem:
    """Wants the answer 7."""

    flushed = False

    def __init__(self, case):
        self.name = case["name"]

    def flops(self):
        return 10

    def error(self, answer):
        if answer != 7:
            raise measure.Wrong(answer)
        return 0.25


class Clock:
    """Tells the time that a call's result says; counts what it is asked for."""

    def __init__(self):
        self.timed = 0

    def ready(self, call):
        return lambda: {**call(), "ready": True}

    def time(self, call, flushed):
        self.timed += 1
        result = call()
        assert result["ready"]
        return {"median": result["seconds"], "low": 0.5, "high": 9, "calls": 3, "busy": 0}


def peer(*layouts):
    """Layouts as (seconds, answer), or what prepare() raises."""

    def prepare(layout):
        def prepared():
            if isinstance(layout, Exception):
                raise layout
            seconds, answer = layout
            return lambda: {"seconds": seconds}, lambda result: answer

        return prepared

    made = [(f"layout {number}", prepare(layout)) for number, layout in enumerate(layouts)]
    return types.SimpleNamespace(TYPES=("bf16",), layouts=lambda problem: iter(made))


class Meter(unittest.TestCase):
    def result_of(self, a_peer, case=CASE):
        self.clock = Clock()
        with contextlib.redirect_stderr(io.StringIO()):  # what goes to the log
            return measure.Meter(a_peer, "threads:2/fake", self.clock, Problem).result_of(case)

    def test_fastest(self):
        entry = self.result_of(peer((3, 7), (2, 7), (4, 7)))["benchmark"]
        self.assertEqual((entry["name"], entry["run_name"]), 2 * ("C1/bf16/threads:2/fake",))
        self.assertEqual((entry["real_time"], entry["time_unit"], entry["label"]), (2000, "ms", "layout 1"))
        self.assertEqual((entry["low_ms"], entry["high_ms"], entry["calls"], entry["busy"]), (500, 9000, 3, 0))
        self.assertEqual((entry["max_error"], entry["FLOP/s"]), (0.25, 5))

    def test_wrong_answer(self):
        entry = self.result_of(peer((3, 8)))["benchmark"]
        self.assertTrue(entry["error_occurred"])
        self.assertEqual(entry["error_message"], "wrong: 8")
        self.assertNotIn("real_time", entry)
        self.assertEqual(self.clock.timed, 0)

    def test_wrong_answer_behind_a_right_one(self):
        entry = self.result_of(peer((3, 7), (1, 6)))["benchmark"]
        self.assertTrue(entry["error_occurred"])
        self.assertNotIn("real_time", entry)

    def test_exception(self):
        entry = self.result_of(peer(RuntimeError("no\n  kernel")))["benchmark"]
        self.assertEqual(entry["error_message"], "RuntimeError: no kernel")
        entry = self.result_of(peer(RuntimeError("no kernel"), (3, 7)))["benchmark"]
        self.assertEqual(entry["label"], "layout 1")

    def test_declined(self):
        self.assertEqual(self.result_of(peer((3, 7)), {**CASE, "dtype": "f64"}), {"declined": "it does not know f64"})
        self.assertEqual(self.result_of(peer(measure.Declined("too large"))), {"declined": "too large"})
        self.assertEqual(self.result_of(peer()), {"declined": "it has no layout for the case"})
        entry = self.result_of(peer(measure.Declined("too large"), (3, 7)))["benchmark"]
        self.assertEqual(entry["label"], "layout 1")


if __name__ == "__main__":
    unittest.main()
