# SPDX-License-Identifier: Apache-2.0
"""What a file of results says about the machine and the project, with the keys of prefixshare_bench; and memory."""

import datetime
import json
import os
import pathlib
import re
import socket
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def context(threads, quick):
    info = _cpu_info()
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "host_name": socket.gethostname(),
        "num_cpus": os.cpu_count(),
        "caches": caches(),
        "load_avg": list(os.getloadavg()),
        "library_build_type": "release",
        "machine": _machine_type(info),
        "cpu": info.get("model name", "unknown CPU"),
        "threads": str(threads),
        "quick": "yes" if quick else "no",
        "commit": _commit(),
        "prefixshare": _version(),
    }


def caches():
    """Data caches of a core, in the form of Google Benchmark."""
    found = []
    for folder in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
        found.append({"type": kind, "level": int(level), "size": int(size.rstrip("K")) << 10})
    return found


def last_level_cache():
    sizes = [cache["size"] for cache in caches() if cache["level"] == 3]
    return sizes[0] if sizes else 64 << 20


def available_memory():
    """Bytes that programs may still take; None where the system does not say."""
    try:
        text = pathlib.Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _cpu_info():
    """The first processor of /proc/cpuinfo."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _machine_type(info):
    """As a file of kernels/costs calls the machine; else vendor-family-model."""
    vendor, family, model = (info.get(key, "") for key in ("vendor_id", "cpu family", "model"))
    if not vendor:
        return "unknown"
    for path in sorted((ROOT / "kernels" / "costs").glob("*.json")):
        costs = json.loads(path.read_text())
        cpuid = costs.get("cpuid", {})
        if cpuid.get("vendor") == vendor and str(cpuid.get("family")) == family and int(model) in cpuid["models"]:
            return costs["machine"]
    return f"{vendor}-{family}-{model}".lower()


def _commit():
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version():
    text = (ROOT / "include" / "prefixshare" / "version.hpp").read_text()
    return ".".join(re.findall(r"define PREFIXSHARE_VERSION_\w+ (\d+)", text))
