# SPDX-License-Identifier: Apache-2.0
"""bench/peers/run: its options, its peers, what it prints and writes."""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
from collections import namedtuple

import machine
import process
import workload_list

HERE = pathlib.Path(__file__).resolve().parent
HOME = machine.ROOT / "build" / "peers"

# The module of the driver, and what `setup` calls the peer.
Peer = namedtuple("Peer", "module setup")
DEVICE = "cuda:"  # begins the names of peers that run on a GPU
PEERS = {
    "torch-sdpa": Peer("torch_sdpa", "torch"),
    "torch-flex": Peer("torch_flex", "torch"),
    "torch-hydragen": Peer("torch_hydragen", "torch"),
    "onnxruntime": Peer("onnxruntime_gqa", "onnxruntime"),
    "ggml": Peer("ggml_flash", "ggml"),
    "cuda:torch-flash": Peer("torch_cuda_flash", "torch"),
    "cuda:torch-cudnn": Peer("torch_cuda_cudnn", "torch"),
    "cuda:torch-flex": Peer("torch_cuda_flex", "torch"),
    "cuda:torch-hydragen": Peer("torch_cuda_hydragen", "torch"),
    "cuda:flashinfer": Peer("flashinfer_cascade", "flashinfer"),
}


class UsageError(Exception):
    pass


def main(arguments):
    """Exit code: 0 done, 1 a peer failed or none is there, 2 the options are wrong."""
    try:
        options = _parse(arguments)
        cases = _cases(options)
        if not any(cases.values()):
            raise UsageError(f"--filter: '{options.filter}' is in the name of no case")
    except (UsageError, workload_list.FormatError) as error:
        print(f"bench/peers/run: {error}", file=sys.stderr)
        return 2
    went_well = []
    for name in options.peers:
        if cases[name]:
            went_well.append(run_peer(name, driver_of(name), cases[name], options))
        else:
            print(f"{name}: the filter leaves none of its cases", flush=True)
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
        "--workload", metavar="REGEX", help="instead of the suite: these workloads, or the one of this name"
    )
    parser.add_argument("--scale", metavar="N", type=int, help="their lengths divided by N")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=pathlib.Path,
        default=HOME / "results",
        help="where the files go; default: build/peers/results",
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        default=cores,
        help="threads of the team; each case also runs on one. Default: all cores",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a part of the suite at a fraction of the lengths, a short time each, on the team alone, without waiting "
        "for an idle machine",
    )
    parser.add_argument("peers", nargs="*", metavar="peer")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.peers if name not in PEERS]
    if unknown:
        raise UsageError(f"there is no peer {unknown[0]}; there are {', '.join(PEERS)}")
    if not 1 <= options.threads <= cores:
        raise UsageError(f"--threads: {options.threads} is no number from 1 to {cores}, the cores of this process")
    if options.scale is not None and (options.workload is None or options.scale < 1):
        raise UsageError("--scale: a number from 1, which goes with --workload")
    options.peers = options.peers or list(PEERS)
    options.listed, options.source = _listed(options.workloads)
    return options


def _listed(path):
    """The workloads by name, and where they come from."""
    source = str(path or "./run bench --list --json")
    if path:
        try:
            return workload_list.read(path.read_text(encoding="utf-8"), source), source
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--workloads: {source} cannot be read: {error}") from None
    listing = subprocess.run(source.split(), cwd=machine.ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if listing.returncode != 0:
        raise UsageError(f"{source} failed with exit code {listing.returncode}")
    return workload_list.read(listing.stdout, source), source


def _cases(options):
    """By peer, those that the options ask of it, perhaps none."""
    try:
        named = None if options.workload is None else _named(options)
        wanted = re.compile(options.filter)
        cases = {}
        for peer in options.peers:
            lines = workload_list.DEVICE_SUITE if peer.startswith(DEVICE) else workload_list.SUITE
            found = named or workload_list.suite(lines, options.listed, options.source, options.quick)
            cases[peer] = [case for case in found if wanted.search(case["name"])]
        return cases
    except re.error as error:
        raise UsageError(f"'{error.pattern}' is no regular expression: {error}") from None


def _named(options):
    """The cases of --workload. Says what it leaves out."""
    cases, other = workload_list.chosen(options.listed, options.source, options.workload, options.scale or 1)
    if other:
        print(f"left out, since no plain forward of attention: {', '.join(other)}", flush=True)
    if not cases:
        raise UsageError(f"--workload: '{options.workload}' is in the name of no workload that peers take")
    return cases


def driver_of(name):
    return [str(HOME / "venv" / "bin" / "python"), str(HERE / "driver.py"), PEERS[name].module]


def run_peer(name, driver, cases, options, case_seconds=process.CASE_SECONDS):
    """Runs a peer, on a CPU on one thread and on the team, a process each, and writes its file. True: every case that
    it takes went well; False: something did not; None: it is missing."""
    options.out.mkdir(parents=True, exist_ok=True)
    context = machine.context(options.threads, options.quick)
    path = options.out / (name.replace(":", "-") + ".json")
    path.unlink(missing_ok=True)  # of an earlier run
    entries, good = [], True
    for runner, threads in _runners(name, options):
        of_runner = [case for case in cases if threads == options.threads or not case["team_only"]]
        request = {"peer": name, "runner": runner, "threads": threads, "quick": options.quick, "cases": of_runner}
        log = options.out / f"{runner.replace('/', '.').replace(':', '-')}.log"
        outcome = process.run(driver + [str(threads)], request, log, _print_entry, case_seconds)
        if outcome.missing:
            hint = f" (bench/peers/setup {PEERS[name].setup})" if name in PEERS and outcome.installable else ""
            print(f"{name}: missing: {outcome.missing}{hint}", flush=True)
            return None
        context["peer"] = outcome.version or name
        context["machine"] = outcome.machine or context["machine"]
        entries += outcome.entries
        good = _conclude(runner, outcome) and good
    if entries:
        path.write_text(json.dumps({"context": context, "benchmarks": entries}, indent=1) + "\n", encoding="utf-8")
    timed = sum("real_time" in entry for entry in entries)
    where = f": {path}" if entries else ""
    print(f"{name}: {timed} cases timed, {len(entries) - timed} went wrong{where}", flush=True)
    return good


def _runners(name, options):
    """Last parts of the names of cases, and threads."""
    if name.startswith(DEVICE):
        return [(name, options.threads)]
    teams = [options.threads] if options.quick or options.threads == 1 else [1, options.threads]
    return [(f"threads:{threads}/{name}", threads) for threads in teams]


def _conclude(runner, outcome):
    """Says what was left out and how it ended; whether all went well."""
    for reason, names in outcome.declined.items():
        print(f"{runner}: leaves out {', '.join(names)}: {reason}", flush=True)
    if outcome.failure:
        where = outcome.current or "before the first case"
        print(f"{runner}: {where}: {outcome.failure}; it is not asked further", flush=True)
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
