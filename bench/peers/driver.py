# SPDX-License-Identifier: Apache-2.0
"""Runs one peer in this process: driver.py MODULE THREADS, with the cases as JSON on standard input.

Prints one JSON object a line: {"missing": why} alone; else {"peer": name and version}, then for each case
{"begin": name} and what became of it: {"benchmark": entry} as Google Benchmark has it, or {"declined": why}.
What a library prints goes to standard error.

The module of a peer imports its library, so that ImportError says that it is missing, and has
    NAME            as in the names of cases
    TYPES           storage types that it takes
    start(threads)  sets the number of threads; the library's version
    layouts(batch)  pairs of a label and prepare(), of which the fastest counts; or raises batch.Declined
prepare() returns run, which is timed, and answer(result of run), in f32 [sequence, row, head, Dv].
"""

import importlib
import json
import os
import sys


def main(module_name, threads):
    results = _take_standard_output()

    def tell(**line):
        results.write(json.dumps(line) + "\n")
        results.flush()

    request = json.load(sys.stdin)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # before a library counts its cores
    try:
        measure = importlib.import_module("measure")  # which needs numpy
        peer = importlib.import_module(module_name)
        version = peer.start(threads)
    except (ImportError, OSError) as error:
        tell(missing=_one_line(error))
        return
    tell(peer=f"{peer.NAME} {version}")
    meter = measure.Meter(peer, threads, request["quick"])
    for case in request["cases"]:
        tell(begin=case["name"])
        tell(**meter.result_of(case))


def _take_standard_output():
    """For results alone."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return results


def _one_line(error):
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
