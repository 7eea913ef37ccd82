"""What this machine offers: kernel sets, CPUs, memory. Read, never guessed."""

from __future__ import annotations

import os
import sys

from qedge.runtime import _engine
from qedge.runtime._engine import kernel_sets

__all__ = [
    "available_bytes",
    "cpu_quota",
    "cpus",
    "kernel_sets",
    "peak_rss_bytes",
    "total_bytes",
]


def _lines(path: str) -> list[str]:
    """A small file of the kernel's, by lines. OSError when it is not there."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().splitlines()


def _number(path: str) -> int | None:
    try:
        return int(_lines(path)[0].split()[0])
    except (OSError, ValueError, IndexError):
        return None  # "max", or no such file


def _meminfo(key: str) -> int | None:
    try:
        for line in _lines("/proc/meminfo"):
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _places(controller: str) -> list[tuple[int, str]]:
    """(version, folder) of every cgroup that this process is in, and of those above it, as far
    as they are seen from here; version 2 has all controllers in one tree."""
    found: list[tuple[int, str]] = []
    try:
        lines = _lines("/proc/self/cgroup")
    except OSError:
        return found
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers == "":
            version, roots = 2, ["/sys/fs/cgroup"]
        elif controller in controllers.split(","):  # mounted alone, or as "cpu,cpuacct"
            version, roots = 1, [f"/sys/fs/cgroup/{name}" for name in {controller, controllers}]
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for root in roots:
            for depth in range(len(parts), -1, -1):
                found.append((version, "/".join([root, *parts[:depth]])))
    return found


def _cgroups() -> list[tuple[int, int]]:
    """(limit, used) in bytes of every memory cgroup, v1 or v2, that this process is in."""
    found = []
    for version, place in _places("memory"):
        limit, used = (
            ("memory.max", "memory.current")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        most = _number(f"{place}/{limit}")
        if most is not None and most < 1 << 60:
            found.append((most, _number(f"{place}/{used}") or 0))
    return found


def cpu_quota() -> float | None:
    """CPUs that the cgroups around this process grant it (v2: cpu.max, v1: cpu.cfs_quota_us),
    the least of all; None without a limit."""
    found = []
    for version, place in _places("cpu"):
        try:
            if version == 2:
                quota, period = map(int, _lines(f"{place}/cpu.max")[0].split())
            else:
                quota = _number(f"{place}/cpu.cfs_quota_us") or 0
                period = _number(f"{place}/cpu.cfs_period_us") or 0
            if quota > 0 < period:  # v1 says -1 for none, v2 "max"
                found.append(quota / period)
        except (OSError, ValueError, IndexError):
            continue
    return min(found) if found else None


def cpus() -> int:
    """CPUs worth a worker: the fast cores that this process may run on, and no more than its
    quota has whole ones, since a worker that is stopped holds up all others."""
    cores, quota = _engine.cpus(), cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def total_bytes() -> int | None:
    """RAM: what the machine has or the cgroup allows, whichever is smaller."""
    figures = [limit for limit, _ in _cgroups()]
    total = _meminfo("MemTotal")
    if total is None and hasattr(os, "sysconf"):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total:
        figures.append(total)
    return min(figures) if figures else None


def available_bytes() -> int | None:
    """RAM that a new session may count on: what is available, or what the cgroup allows (its
    page
    cache can be dropped, so its limit counts whole)."""
    figures = [limit for limit, _ in _cgroups()]
    free = _meminfo("MemAvailable")
    if free is not None:
        figures.append(free)
    return min(figures) if figures else total_bytes()


def peak_rss_bytes() -> int:
    """Peak resident memory of this program, mapped image pages included."""
    try:  # ru_maxrss would count what the parent held when it started us
        for line in _lines("/proc/self/status"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
