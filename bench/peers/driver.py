# SPDX-License-Identifier: Apache-2.0
"""Runs one peer in this process: driver.py MODULE THREADS, with the cases as JSON on standard input.

Prints one JSON object a line: {"missing": why, "installable": whether setup helps} alone; else
{"peer": name and version, "machine": type of the device, if it is on one}, then for each case {"begin": name} and what
became of it: {"benchmark": entry} as Google Benchmark has it, or {"declined": why}. What a library prints goes to
standard error.

The module of a peer imports its library, so that ImportError says that it is missing, and has
    TYPES           storage types that it takes
    start(threads)  sets the number of threads; the library's version
    layouts(batch)  pairs of a label and prepare(), of which the fastest counts; or raises Declined
prepare() returns run, which is timed, and answer(result of run), in f32 [sequence, row, head, Dv].
That of a peer on a device also has
    machine()       the type of the device
    Clock           as in timing.py, for the device
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
        batch, measure, timing = (importlib.import_module(name) for name in ("batch", "measure", "timing"))  # numpy's
        peer = importlib.import_module(module_name)
        version = peer.start(threads)
    except (ImportError, OSError) as error:
        tell(missing=_one_line(error), installable=isinstance(error, ImportError))
        return
    tell(peer=f"{request['peer']} {version}", machine=peer.machine() if hasattr(peer, "machine") else None)
    clock = getattr(peer, "Clock", timing.Clock)(threads, request["quick"])
    meter = measure.Meter(peer, request["runner"], clock, batch.Batch)
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
