# SPDX-License-Identifier: Apache-2.0
"""A peer in a process of its own: whatever it does there ends as results, or as one line that says what went wrong."""

import json
import math
import os
import queue
import signal
import subprocess
import threading

import machine

CASE_SECONDS = 600  # without a line from the process; compilers may be part of the first case
LINE_CHARACTERS = 1 << 16  # of a longer one its beginning is read, which is no JSON
END_SECONDS = 5  # for the process to end once its output has


class Outcome:
    """What became of a peer."""

    def __init__(self):
        self.version = None
        self.machine = None  # type of the device, if it runs on one
        self.missing = None  # why it is not there
        self.installable = True  # if it is missing: whether setup helps
        self.entries = []  # of Google Benchmark's JSON
        self.declined = {}  # by reason: names of cases
        self.current = None  # name of the case that is being run
        self.failure = None  # why it ended early, in one line


class Garbage(Exception):
    """A line of the process is not what driver.py says."""


def run(command, request, log_path, say, case_seconds=CASE_SECONDS):
    """Runs a driver (see driver.py), a list of words, on a request. Each entry goes to say() as it comes."""
    outcome = Outcome()
    with open(log_path, "w", encoding="utf-8") as log:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                errors="replace",
                env=_environment(request["threads"]),
                start_new_session=True,
            )
        except OSError as error:
            outcome.missing = f"{command[0]} cannot be run: {error.strerror}"
            return outcome
        try:
            _converse(process, request, outcome, say, case_seconds)
        except Garbage as problem:
            outcome.failure = str(problem)
        except queue.Empty:
            outcome.failure = f"no answer within {case_seconds:g} seconds"
        except EOFError:
            outcome.failure = _how_it_ended(process) + _last_words(log_path)
        finally:
            _end(process)
    if outcome.failure and outcome.current:
        name = f"{outcome.current}/{request['runner']}"
        outcome.entries.append(
            {
                "name": name,
                "run_name": name,
                "run_type": "iteration",
                "error_occurred": True,
                "error_message": outcome.failure,
            }
        )
    return outcome


def _environment(threads):
    """Libraries that count threads by themselves; files that they write stay below build/."""
    home = machine.ROOT / "build" / "peers"
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "FLASHINFER_WORKSPACE_BASE": str(home / "flashinfer"),
    }


def _converse(process, request, outcome, say, case_seconds):
    """Reads lines until every case is answered. Raises queue.Empty after silence, EOFError at an end too early."""
    lines = queue.Queue()
    threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True).start()
    threading.Thread(target=_write, args=(process.stdin, json.dumps(request)), daemon=True).start()
    waiting = {case["name"] for case in request["cases"]}
    while waiting and not outcome.missing:
        line = lines.get(timeout=case_seconds)
        if line is None:
            raise EOFError
        _take(line, waiting, outcome, say)


def _take(line, waiting, outcome, say):
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    shown = repr(line.strip()[:80])
    if not isinstance(message, dict):
        raise Garbage(f"printed what is no result: {shown}")
    if "missing" in message:
        outcome.missing, outcome.installable = str(message["missing"]), message.get("installable", True)
    elif "peer" in message:
        outcome.version, outcome.machine = str(message["peer"]), message.get("machine")
    elif message.get("begin") in waiting:
        outcome.current = message["begin"]
    elif outcome.current and "declined" in message:
        outcome.declined.setdefault(str(message["declined"]), []).append(outcome.current)
        waiting.discard(outcome.current)
        outcome.current = None
    elif outcome.current and _is_entry(message.get("benchmark"), outcome.current):
        outcome.entries.append(message["benchmark"])
        waiting.discard(outcome.current)
        outcome.current = None
        say(outcome.entries[-1])
    else:
        raise Garbage(f"printed what is no result of a case: {shown}")


def _is_entry(entry, case):
    """Whether it is a case's, with a time or an error."""
    if not isinstance(entry, dict) or not str(entry.get("name")).startswith(case + "/"):
        return False
    if entry.get("error_occurred"):
        return isinstance(entry.get("error_message"), str)
    numbers = [entry.get(key) for key in ("real_time", "max_error", "busy")]
    good = all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers)
    return good and entry["real_time"] > 0 and isinstance(entry.get("label"), str)


def _read_lines(stream, lines):
    with stream:
        for line in iter(lambda: stream.readline(LINE_CHARACTERS), ""):
            lines.put(line)
    lines.put(None)


def _write(stream, text):
    try:
        stream.write(text)
        stream.close()
    except OSError:  # the process is gone, which its end says better
        pass


def _end(process):
    """Ends the process and its children, who are a group of their own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _how_it_ended(process):
    """Of a process whose output has ended."""
    try:
        code = process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        return "closed its output before the end"
    if code >= 0:
        return f"ended early with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"crashed ({name})"


def _last_words(log_path):
    """The last line that it wrote, for a hint."""
    text = log_path.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {lines[-1][:120]} (more in {log_path})" if lines else ""
