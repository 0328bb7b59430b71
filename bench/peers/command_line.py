# SPDX-License-Identifier: Apache-2.0
"""bench/peers/run: its options, its peers, what it prints and writes."""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

import machine
import process
import workload_list

HERE = pathlib.Path(__file__).resolve().parent
HOME = machine.ROOT / "build" / "peers"

# Peers by name: the module of the driver, and what `setup` calls it.
PEERS = {
    "torch-sdpa": ("torch_sdpa", "torch"),
    "torch-flex": ("torch_flex", "torch"),
    "torch-hydragen": ("torch_hydragen", "torch"),
    "onnxruntime": ("onnxruntime_gqa", "onnxruntime"),
    "ggml": ("ggml_flash", "ggml"),
}


class UsageError(Exception):
    pass


def main(arguments):
    """Exit code: 0 done, 1 a peer failed or none is there, 2 the options are wrong."""
    try:
        options = _parse(arguments)
        cases = _cases(options)
    except (UsageError, workload_list.FormatError) as error:
        print(f"bench/peers/run: {error}", file=sys.stderr)
        return 2
    went_well = [run_peer(name, driver_of(name), cases, options) for name in options.peers]
    return 0 if True in went_well and False not in went_well else 1


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="bench/peers/run",
        description="Times other libraries' attention on the workloads of prefixshare_bench, each answer checked "
        "first, and writes a file of Google Benchmark's JSON for each.",
        epilog=f"peers: {', '.join(PEERS)}. Without a name, all. bench/peers/setup installs them.",
    )
    parser.add_argument(
        "--workloads",
        metavar="FILE",
        type=pathlib.Path,
        help="output of prefixshare_bench --list --json; without it, ./run bench is asked",
    )
    parser.add_argument("--filter", metavar="REGEX", default="", help="only cases in whose names it is found: ^C1/bf16")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=pathlib.Path,
        default=HOME / "results",
        help="where the files go; default: build/peers/results",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="threads of the team; each case also runs on one. Default: all cores",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="an eighth of the lengths, a short time each, on the team alone, without waiting for an idle machine",
    )
    parser.add_argument("peers", nargs="*", metavar="peer")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.peers if name not in PEERS]
    if unknown:
        raise UsageError(f"there is no peer {unknown[0]}; there are {', '.join(PEERS)}")
    cores = len(os.sched_getaffinity(0))
    if not 1 <= options.threads <= cores:
        raise UsageError(f"--threads: {options.threads} is no number from 1 to {cores}, the cores of this process")
    options.peers = options.peers or list(PEERS)
    return options


def _cases(options):
    if options.workloads:
        source = str(options.workloads)
        try:
            text = options.workloads.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--workloads: {source} cannot be read: {error}") from None
    else:
        source = "./run bench --list --json"
        listing = subprocess.run(source.split(), cwd=machine.ROOT, stdout=subprocess.PIPE, text=True, check=False)
        if listing.returncode != 0:
            raise UsageError(f"{source} failed with exit code {listing.returncode}")
        text = listing.stdout
    try:
        cases = workload_list.cases_of(workload_list.read(text, source), source, options.quick, options.filter)
    except re.error as error:
        raise UsageError(f"--filter: '{options.filter}' is no regular expression: {error}") from None
    if not cases:
        raise UsageError(f"--filter: '{options.filter}' is in the name of no case")
    return cases


def driver_of(name):
    return [str(HOME / "venv" / "bin" / "python"), str(HERE / "driver.py"), PEERS[name][0]]


def run_peer(name, driver, cases, options, case_seconds=process.CASE_SECONDS):
    """Runs a peer on one thread and on the team, a process each, and writes its file. True: every case that it takes
    went well; False: something did not; None: it is missing."""
    options.out.mkdir(parents=True, exist_ok=True)
    context = machine.context(options.threads, options.quick)
    teams = [options.threads] if options.quick or options.threads == 1 else [1, options.threads]
    path = options.out / f"{name}.json"
    path.unlink(missing_ok=True)  # of an earlier run
    entries, good = [], True
    for threads in teams:
        request = {"peer": name, "threads": threads, "quick": options.quick, "cases": cases}
        log = options.out / f"{name}.threads-{threads}.log"
        outcome = process.run(driver + [str(threads)], request, log, _print_entry, case_seconds)
        if outcome.missing:
            hint = f" (bench/peers/setup {PEERS[name][1]})" if name in PEERS else ""
            print(f"{name}: missing: {outcome.missing}{hint}", flush=True)
            return None
        context["peer"] = outcome.version or name
        entries += outcome.entries
        good = _conclude(name, threads, outcome) and good
    if entries:
        path.write_text(json.dumps({"context": context, "benchmarks": entries}, indent=1) + "\n", encoding="utf-8")
    timed = sum("real_time" in entry for entry in entries)
    where = f": {path}" if entries else ""
    print(f"{name}: {timed} cases timed, {len(entries) - timed} went wrong{where}", flush=True)
    return good


def _conclude(name, threads, outcome):
    """Says what was left out and how it ended; whether all went well."""
    for reason, names in outcome.declined.items():
        print(f"{name}: leaves out {', '.join(names)}: {reason}", flush=True)
    if outcome.failure:
        where = outcome.current or "before the first case"
        print(f"{name}: {where}, threads:{threads}: {outcome.failure}; it is not asked further", flush=True)
    return not outcome.failure and not any(entry.get("error_occurred") for entry in outcome.entries)


def _print_entry(entry):
    if entry.get("error_occurred"):
        print(f"{entry['name']}: {entry['error_message']}", flush=True)
        return
    busy = f", others used {entry['busy']:.2f} cores" if entry.get("busy") else ""
    print(
        f"{entry['name']}: {entry['real_time']:.3f} ms, {entry['label']}, error {entry['max_error']:.1g}{busy}",
        flush=True,
    )
