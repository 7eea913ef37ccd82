"""What a process holds, as the system counts it; the same for every engine."""

from __future__ import annotations


def memory() -> dict[str, float]:
    """MiB: peak resident, and what is resident now as anonymous and as file pages."""
    with open("/proc/self/status", encoding="utf-8") as file:
        status = dict(line.split(":", 1) for line in file)
    names = {"peak_mib": "VmHWM", "anonymous_mib": "RssAnon", "file_mib": "RssFile"}
    return {key: int(status[name].split()[0]) / 1024 for key, name in names.items()}
