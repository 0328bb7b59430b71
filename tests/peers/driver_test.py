# SPDX-License-Identifier: Apache-2.0
"""The driver of peers with fake ones: a right answer is timed, a wrong one found. Needs numpy."""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import sys
import tempfile
import types
import unittest

HERE = pathlib.Path(__file__).resolve().parent
PEERS = HERE.parents[1] / "bench" / "peers"
sys.dont_write_bytecode = True
sys.path[:0] = [str(PEERS), str(HERE / "fakes")]

if importlib.util.find_spec("numpy") is None:
    print("SKIPPED: the peers' driver, since Python has no numpy")
    sys.exit(0)

import numpy as np  # noqa: E402

import batch  # noqa: E402
import command_line  # noqa: E402
import good  # noqa: E402
import measure  # noqa: E402
import workload_list  # noqa: E402

LIST = HERE / "workloads.json"
CASES = workload_list.suite(
    workload_list.SUITE, workload_list.read(LIST.read_text(), "list"), "list", False
)


class Driver(unittest.TestCase):
    def run_fake(self, name):
        with tempfile.TemporaryDirectory() as folder:
            options = types.SimpleNamespace(out=pathlib.Path(folder), threads=1, quick=True)
            os.environ["PYTHONPATH"] = str(HERE / "fakes")
            cases = [case for case in CASES if not case["flushed"]]
            with contextlib.redirect_stdout(io.StringIO()):
                result = command_line.run_peer(name, [sys.executable, str(PEERS / "driver.py"), name], cases, options)
            path = options.out / f"{name}.json"
            return result, cases, json.loads(path.read_text())

    def test_good(self):
        result, cases, document = self.run_fake("good")
        self.assertIs(result, True)
        self.assertEqual(document["context"]["peer"], "good 1.0")
        entries = document["benchmarks"]
        self.assertEqual([entry["name"] for entry in entries], [f"{case['name']}/threads:1/good" for case in cases])
        for entry in entries:
            self.assertEqual((entry["time_unit"], entry["label"]), ("ms", "numpy"))
            self.assertTrue(0 < entry["low_ms"] <= entry["real_time"] <= entry["high_ms"], entry)
            self.assertGreaterEqual(entry["calls"], 1)
            self.assertGreater(entry["FLOP/s"], 0)
            self.assertLessEqual(entry["max_error"], 1 / 16)

    def test_liar(self):
        result, cases, document = self.run_fake("liar")
        self.assertIs(result, False)
        self.assertEqual(len(document["benchmarks"]), len(cases))
        for entry in document["benchmarks"]:
            self.assertTrue(entry["error_occurred"], entry)
            self.assertRegex(entry["error_message"], "^wrong: sequence .* is off by")
            self.assertNotIn("real_time", entry)


class Check(unittest.TestCase):
    """Answers with one fault each, in every type."""

    def test_faults(self):
        for case in CASES:
            problem = batch.Batch(case)
            right = good.attend(problem)
            self.assertLess(problem.error(right), batch.BOUND[problem.dtype], case["name"])
            swapped = right[:, :, ::-1].copy()
            unwritten = right.copy()
            unwritten[-1, -1, -1, -1] = np.nan
            for wrong in (swapped, unwritten, right[:, :, :-1], good.attend(problem, first_key=1), 0 * right):
                with self.assertRaises(measure.Wrong):
                    problem.error(wrong)

    def test_the_last_key_of_a_prefix(self):
        problem = batch.Batch(next(case for case in CASES if case["name"] == "C1/bf16"))
        at = problem.shared - 1
        for tensors in (problem._k, problem._v):  # as if the next token's stood there
            tensors[0][at] = tensors[0][at - 1]
        spoiled = good.attend(problem)
        fresh = batch.Batch(next(case for case in CASES if case["name"] == "C1/bf16"))
        with self.assertRaisesRegex(measure.Wrong, "is off by"):
            fresh.error(spoiled)

    def test_types(self):
        x = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -3.5, 0, 65280], np.float32)
        self.assertEqual(
            batch.from_storage(batch.to_storage(x, "bf16"), "bf16").tolist(), [1, 1, 1 + 2**-6, -3.5, 0, 65280]
        )
        self.assertEqual(batch.from_storage(batch.to_storage(x, "f16"), "f16").tolist()[:5], x.tolist()[:5])

    def test_parts(self):
        problem = batch.Batch(next(case for case in CASES if case["name"] == "C4/f32"))
        self.assertEqual((problem.count, problem.keys, problem.rows, problem.shared), (2, 32, 8, 24))
        own, _ = problem.own_copies(head_major=False)
        prefix, _ = problem.prefix()
        suffixes, _ = problem.suffixes()
        for sequence in range(2):
            self.assertTrue((own[sequence] == np.concatenate([prefix, suffixes[sequence]])).all())
        self.assertEqual(problem.mask().sum(axis=1).tolist(), list(range(25, 33)))
        self.assertEqual(problem.flops(), 2 * 2 * 16 * 4 * 2 * sum(range(25, 33)))

    def test_rows_within_the_prefix(self):
        case = {**CASES[0], "nodes": [[-1, 30], [0, 10], [1, 8]], "sequences": [[2, 9], [2, 9]]}
        self.assertEqual(batch.Batch(case).shared, 40)  # the first row sees 40 of 48
        case["sequences"] = [[2, 10], [2, 10]]
        self.assertEqual(batch.Batch(case).shared, 30)

    def test_levels(self):
        case = {**CASES[0], "nodes": [[-1, 9], [0, 4], [0, 4], [1, 2], [1, 2], [2, 2]]}
        case["sequences"] = [[3, 1], [4, 1], [5, 1]]
        levels = [[(0, 3)], [(1, 2), (2, 1)], [(3, 1), (4, 1), (5, 1)]]
        self.assertEqual(batch.Batch(case).levels(), levels)
        case["nodes"], case["sequences"] = [[-1, 9], [-1, 4], [1, 5]], [[0, 1], [2, 1]]
        with self.assertRaises(measure.Declined):
            batch.Batch(case).levels()

    def test_too_large(self):
        problem = batch.Batch(CASES[0])
        problem.count = 1 << 40
        with self.assertRaisesRegex(measure.Declined, "own copies of 48 keys each need"):
            problem.own_copies(head_major=True)

    def test_unequal_sequences(self):
        with self.assertRaises(measure.Declined):
            batch.Batch({**CASES[0], "nodes": [[-1, 40], [0, 8], [0, 8], [0, 9]]})


if __name__ == "__main__":
    unittest.main()
