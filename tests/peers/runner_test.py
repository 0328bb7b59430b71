# SPDX-License-Identifier: Apache-2.0
"""The runner of peers with fake ones: what they do wrong is told in a line, and the others run. Needs only Python."""

import contextlib
import io
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import types
import unittest

HERE = pathlib.Path(__file__).resolve().parent
PEERS = HERE.parents[1] / "bench" / "peers"
sys.dont_write_bytecode = True
sys.path.insert(0, str(PEERS))

import command_line  # noqa: E402
import process  # noqa: E402
import workload_list  # noqa: E402

LIST = HERE / "workloads.json"


def listed():
    return workload_list.read(LIST.read_text(), "list")


def cases(quick=False, pattern=""):
    found = workload_list.suite(workload_list.SUITE, listed(), "list", quick)
    return [case for case in found if re.search(pattern, case["name"])]


class Runner(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.out = pathlib.Path(self.folder.name)

    def run_fake(self, behaviour, threads=1, case_seconds=120):
        """What becomes of a fake peer, and what is printed."""
        options = types.SimpleNamespace(out=self.out, threads=threads, quick=threads == 1)
        driver = [sys.executable, str(HERE / "fakes" / "fake_driver.py"), behaviour]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            result = command_line.run_peer("fake", driver, cases(), options, case_seconds)
        return result, printed.getvalue()

    def entries(self):
        return json.loads((self.out / "fake.json").read_text())["benchmarks"]

    def assert_fails(self, behaviour, line, case_seconds=120):
        """The case before stands, the one that it failed in is an error; `line` is all that is said of it."""
        result, printed = self.run_fake(behaviour, case_seconds=case_seconds)
        entries = self.entries()
        self.assertIs(result, False)
        self.assertEqual([line in text for text in printed.splitlines()].count(True), 1, printed)
        self.assertEqual(len(entries), 2)
        self.assertEqual(entries[0]["real_time"], 1.5)
        self.assertTrue(entries[1]["error_occurred"])
        self.assertIn(line, entries[1]["error_message"])
        self.assertEqual(entries[1]["name"], f"{cases()[1]['name']}/threads:1/fake")

    def test_good(self):
        result, printed = self.run_fake("good")
        self.assertIs(result, True)
        self.assertEqual(len(self.entries()), len(cases()) - 1)
        self.assertIn(f"fake: leaves out {cases()[1]['name']}: too hard", printed)
        document = json.loads((self.out / "fake.json").read_text())
        self.assertEqual(document["context"]["peer"], "fake 1.0")
        for key in ("date", "host_name", "machine", "cpu", "commit", "prefixshare", "threads", "quick"):
            self.assertIsInstance(document["context"][key], str, key)

    def test_wrong(self):
        result, printed = self.run_fake("wrong")
        self.assertIs(result, False)
        name = f"{cases()[1]['name']}/threads:1/fake"
        self.assertIn(f"{name}: wrong: sequence 0, row 0 is off by 1\n", printed)
        self.assertIn(f"{len(cases()) - 1} cases timed, 1 went wrong", printed)
        wrong = [entry for entry in self.entries() if "real_time" not in entry]
        self.assertEqual([entry["name"] for entry in wrong], [name])

    def test_crash(self):
        self.assert_fails("crash", "crashed (SIGABRT): out of luck")

    def test_hang(self):
        self.assert_fails("hang", "no answer within 5 seconds", case_seconds=5)

    def test_garbage(self):
        self.assert_fails("garbage", "printed what is no result: 'Segmentation fault (not really)'")

    def test_truncated(self):
        self.assert_fails("truncated", """printed what is no result: '{"benchmark": {"name": "C1/f32", "real_t'""")

    def test_endless(self):
        self.assert_fails("endless", "printed what is no result: 'xxx")

    def test_nonsense(self):
        self.assert_fails("nonsense", "printed what is no result of a case")

    def test_ends_early(self):
        self.assert_fails("leave", "ended early with exit code 3")

    def test_missing(self):
        (self.out / "fake.json").write_text("{}")
        result, printed = self.run_fake("missing")
        self.assertIsNone(result)
        self.assertEqual(printed, "fake: missing: No module named 'fake'\n")
        self.assertFalse((self.out / "fake.json").exists())

    def test_no_environment(self):
        outcome = process.run(["/nowhere/python", "driver.py"], {"threads": 1}, self.out / "log", print)
        self.assertEqual(outcome.missing, "/nowhere/python cannot be run: No such file or directory")

    def test_two_teams(self):
        result, _ = self.run_fake("good", threads=2)
        self.assertIs(result, True)
        names = [entry["name"] for entry in self.entries()]
        self.assertEqual({name.split("/")[-2] for name in names}, {"threads:1", "threads:2"})
        self.assertEqual(len(names), len(set(names)))


class Options(unittest.TestCase):
    def refusal(self, *arguments):
        program = subprocess.run(
            [sys.executable, str(PEERS / "run"), *arguments], capture_output=True, text=True, check=False
        )
        self.assertEqual(program.returncode, 2, program.stderr)
        self.assertEqual(program.stdout, "")
        return program.stderr.strip()

    def test_refusals(self):
        given = ["--workloads", str(LIST)]
        self.assertIn("there is no peer flashier; there are torch-sdpa,", self.refusal("flashier"))
        self.assertIn("no number from 1 to", self.refusal("--threads", "0"))
        self.assertIn("cannot be read", self.refusal("--workloads", "/nowhere"))
        self.assertIn("is no regular expression", self.refusal(*given, "--filter", "("))
        self.assertIn("is in the name of no case", self.refusal(*given, "ggml", "--filter", "C99"))
        self.assertIn("is in the name of no workload", self.refusal(*given, "--workload", "C99"))
        self.assertIn("is no regular expression", self.refusal(*given, "--workload", "("))
        self.assertIn("--scale", self.refusal(*given, "--scale", "2"))
        self.assertIn("--scale", self.refusal(*given, "--workload", "C1", "--scale", "0"))
        self.assertIn("this is no JSON", self.refusal("--workloads", __file__))
        self.assertIn("none of the suite's workloads", self.refusal(*given, "cuda:flashinfer"))

    def test_truncated_list(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(LIST.read_text()[:-20])
            file.flush()
            self.assertIn("or only a part of it", self.refusal("--workloads", file.name))


class List(unittest.TestCase):
    def test_names(self):
        self.assertIn("C1/flushed/bf16", [case["name"] for case in cases()])
        self.assertEqual([case["name"] for case in cases(True, "^C5")], ["C5/scale:8/bf16"])
        self.assertEqual([case["name"] for case in cases(True, "^C4")], ["C4/scale:8/f32"])

    def test_chosen(self):
        def names(expression, scale=1):
            found, other = workload_list.chosen(listed(), "list", expression, scale)
            return [case["name"] for case in found], other

        self.assertEqual(names("^C[15]", 4), (["C1/scale:4/bf16", "C5/scale:4/bf16"], []))
        self.assertEqual(names("C1"), (["C1/bf16"], []))
        document = json.loads(LIST.read_text())
        document["workloads"][0]["draft_parents"] = [-1]
        document["workloads"][2]["task"] = "merge"
        found, other = workload_list.chosen(workload_list.read(json.dumps(document), "list"), "list", "C[14]", 1)
        self.assertEqual((found, other), ([], ["C1", "C4"]))

    def test_lengths(self):
        case = cases(True, "^C4/.*f32")[0]  # 24, 8 and 8 tokens, 8 rows
        self.assertEqual(case["nodes"], [[-1, 3], [0, 1], [0, 1]])
        self.assertEqual(case["sequences"], [[1, 1], [2, 1]])

    def assert_refused(self, change, message):
        document = json.loads(LIST.read_text())
        change(document["workloads"][0])
        with self.assertRaisesRegex(workload_list.FormatError, message):
            workload_list.suite(workload_list.SUITE, workload_list.read(json.dumps(document), "list"), "list", False)

    def test_other_formats(self):
        self.assert_refused(lambda w: w.pop("name"), "list: workload 0 has no name")
        self.assert_refused(lambda w: w.pop("Hkv"), 'list: workload C1: "Hkv" is missing, want int')
        self.assert_refused(lambda w: w.update(nodes=7), 'workload C1: "nodes" is 7, want dict')
        self.assert_refused(
            lambda w: w["nodes"].update(parent=["a"]), '"nodes"."parent" is .*, want a list of integers'
        )
        self.assert_refused(lambda w: w["nodes"]["length"].pop(), "no forest")
        self.assert_refused(lambda w: w["sequences"].update(node=[0, 1, 9]), "no forest")
        self.assert_refused(lambda w: w.update(task="merge"), "a forward without draft tokens was expected")
        for text in ("[]", '{"workloads": {}}', "{}"):
            with self.assertRaisesRegex(workload_list.FormatError, 'there is no list "workloads"'):
                workload_list.read(text, "list")


if __name__ == "__main__":
    unittest.main()
