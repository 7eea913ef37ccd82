"""What this machine offers: kernel sets, CPUs, memory. Read, never guessed."""

from __future__ import annotations

import os
import sys

from qedge.runtime._engine import cpus, kernel_sets

__all__ = ["available_bytes", "cpus", "kernel_sets", "peak_rss_bytes", "total_bytes"]


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


def _cgroups() -> list[tuple[int, int]]:
    """(limit, used) in bytes of every memory cgroup, v1 or v2, that this process is in."""
    found = []
    try:
        lines = _lines("/proc/self/cgroup")
    except OSError:
        return found
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers == "":
            root, limit, used = "/sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root = "/sys/fs/cgroup/memory"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            place = "/".join([root, *parts[:depth]])
            most = _number(f"{place}/{limit}")
            if most is not None and most < 1 << 60:
                found.append((most, _number(f"{place}/{used}") or 0))
    return found


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
