"""A memory control group of Linux, v1 or v2, for one process.  Needs root, or a delegated
group; not a sandbox."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
CURE = (
    "run it as root on Linux (a container: docker run --privileged) with cgroup v2's memory "
    "controller, or v1's mounted: mount -t cgroup -o memory none /sys/fs/cgroup/memory"
)


class NoGroup(Exception):
    """No memory group can be made here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Group:
    """Names of a version's files: limit, limit of swap, peak usage, key of the page cache."""

    path: Path
    limit: str
    swap: str
    peak: str
    cache: str

    @classmethod
    def v1(cls, path: Path) -> Group:
        swap = "memory.memsw.limit_in_bytes"
        return cls(path, "memory.limit_in_bytes", swap, "memory.max_usage_in_bytes", "cache")

    @classmethod
    def v2(cls, path: Path) -> Group:
        return cls(path, "memory.max", "memory.swap.max", "memory.peak", "file")

    def restrict(self, limit_bytes: int) -> None:
        (self.path / self.limit).write_text(str(limit_bytes))
        swap = self.path / self.swap
        if swap.exists():  # v1 limits memory with swap, v2 swap alone
            swap.write_text(str(limit_bytes if self.cache == "cache" else 0))

    def join(self) -> None:
        """Moves the calling process in; all that it touches from now on is charged here."""
        (self.path / "cgroup.procs").write_text("0")

    def peak_mib(self) -> float | None:
        file = self.path / self.peak  # v2 has it since Linux 5.19
        return int(file.read_text()) / MIB if file.exists() else None

    def cache_mib(self) -> float:
        lines = (line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        return {name: int(value) for name, value in lines}[self.cache] / MIB


def _mounts() -> Iterator[tuple[Path, str, str]]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        yield Path(place), kind, options


def _mounted_v1() -> Path | None:
    for place, kind, options in _mounts():
        if kind == "cgroup" and "memory" in options.split(","):
            return place
    return None


def _mounted_v2() -> Path | None:
    """Where cgroup v2 gives its children the memory controller, asked to if it does not."""
    for place, kind, _ in _mounts():
        if kind == "cgroup2" and "memory" in (place / "cgroup.controllers").read_text():
            (place / "cgroup.subtree_control").write_text("+memory")
            return place
    return None


@contextlib.contextmanager
def hierarchy() -> Iterator[Path]:
    """Where groups are made; v1's controller is mounted for the while when nothing is."""
    found = None
    with contextlib.suppress(OSError):
        found = _mounted_v1() or _mounted_v2()
    if found:
        yield found
        return
    with tempfile.TemporaryDirectory() as place:
        mount = ["mount", "-t", "cgroup", "-o", "memory", "none", place]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoGroup(f"no memory controller: {done.stderr.strip()}; {CURE}")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


@contextlib.contextmanager
def group(parent: Path, limit_mib: int | None) -> Iterator[Group]:
    """A group of its own, gone afterwards; without a limit it only counts."""
    path = parent / f"qedge-bench-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        raise NoGroup(f"no group can be made: {error}; {CURE}") from None
    try:
        v1 = (path / "memory.limit_in_bytes").exists()
        found = Group.v1(path) if v1 else Group.v2(path)
        if limit_mib:
            found.restrict(limit_mib * MIB)
        yield found
    finally:
        path.rmdir()
