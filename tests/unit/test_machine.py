"""What this machine offers: CPUs by its container's quota, the profile by its kernel sets,
threads or a refusal. The system's files are files below a folder, and real where we may."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qedge.runtime import BudgetError, Model, UsageError, _engine, machine, session
from qedge.toolkit import board

System = Callable[[str, dict[str, str]], None]


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """system(text of /proc/self/cgroup, {path below /sys/fs/cgroup: text})."""
    root = tmp_path / "root"
    lines = machine._lines

    def below(path: str) -> list[str]:
        return lines(f"{root}{path}")

    def make(groups: str, files: dict[str, str]) -> None:
        for name, text in {
            "proc/self/cgroup": groups,
            **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
        }.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    monkeypatch.setattr(machine, "_lines", below)
    monkeypatch.setattr(_engine, "cpus", lambda: 8)
    return make


@pytest.mark.parametrize(
    ("groups", "files", "quota", "cpus"),
    [
        ("", {}, None, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None, 8),
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1.0, 1),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5, 2),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 0.1, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 64.0, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3.0, 3),
        (
            "0::/a/b\n",
            {"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "400000 100000\n"},
            2.0,
            2,
        ),
        # of a container that sees its own group at the root and the host's name of it
        ("0::/docker/0123\n", {"cpu.max": "150000 100000\n"}, 1.5, 1),
        ("0::/../../outside\n", {"cpu.max": "400000 100000\n"}, 4.0, 4),
        (
            "4:cpu,cpuacct:/a\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": "25000\n"},
            2.0,
            2,
        ),
        (
            "4:cpuacct,cpu:/a\n",
            {
                "cpuacct,cpu/a/cpu.cfs_quota_us": "50000\n",
                "cpuacct,cpu/a/cpu.cfs_period_us": "50000\n",
            },
            1.0,
            1,
        ),
        (
            "1:cpu:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            None,
            8,
        ),
        (
            "1:cpu:/a/b\n",
            {
                "cpu/a/b/cpu.cfs_quota_us": "-1\n",
                "cpu/a/b/cpu.cfs_period_us": "100000\n",
                "cpu/a/cpu.cfs_quota_us": "300000\n",
                "cpu/a/cpu.cfs_period_us": "100000\n",
            },
            3.0,
            3,
        ),
        ("0::/\n", {"cpu.max": ""}, None, 8),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None, 8),
        ("0::/\n", {"cpu.max": "0 100000\n"}, None, 8),
        ("0::/\n", {"cpu.max": "100000 0\n"}, None, 8),
        ("garbage\n\n::\n", {"cpu.max": "100000 100000\n"}, 1.0, 1),
    ],
)
def test_workers_are_as_many_as_the_quota_has_whole_cpus(
    system: System, groups: str, files: dict[str, str], quota: float | None, cpus: int
) -> None:
    system(groups, files)
    assert machine.cpu_quota() == quota and machine.cpus() == cpus


def test_memory_limit_of_every_group_counts(system: System) -> None:
    limit = {
        "memory/a/memory.limit_in_bytes": "4096\n",
        "memory/a/memory.usage_in_bytes": "9\n",
    }
    system("2:memory:/a/b\n", limit)
    assert machine.available_bytes() == 4096
    system("0::/a/b\n", {"a/memory.max": "8192\n", "a/b/memory.max": "max\n"})
    assert machine.available_bytes() == 8192


def test_default_threads_follow_the_quota_and_asked_ones_do_not(
    tiny_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "cpus", lambda: 1)
    with Model.open(tiny_image) as model:
        assert model.threads == 1 and model.arena_bytes == model.plan["arena_bytes"]
    with Model.open(tiny_image, threads=2) as model:
        assert model.threads == 2


def cpu_groups() -> Iterator[tuple[Path, dict[str, str]]]:
    """Where a group with a quota of one CPU can be made, and the files that say it."""
    v1 = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            yield Path(place), v1
        elif kind == "cgroup2":
            yield Path(place), {"cpu.max": "100000 100000"}


def real_group() -> Path | None:
    for place, files in cpu_groups():
        group = place / f"qedge-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for name, text in files.items():
                (group / name).write_text(text)
            return group
        except OSError:
            group.rmdir()
    return None


def test_real_group_with_a_quota_of_one_cpu_is_seen(tiny_image: Path) -> None:
    group = real_group()
    if group is None:
        pytest.skip("only root on Linux, with a cgroup of CPUs that is its own, can make one")
    code = (
        "import sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n"
        "from qedge.runtime import Model, machine\n"
        "print(machine.cpu_quota(), Model.open(sys.argv[2]).threads)\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(group), str(tiny_image)],
            capture_output=True,
            text=True,
        )
    finally:
        group.rmdir()
    assert done.stdout == "1.0 1\n", done.stderr


@pytest.mark.parametrize(
    ("machine_name", "sets", "profile"),
    [
        ("x86_64", ["amx", "avx512", "avx2", "portable"], "x86-64-v4"),
        ("x86_64", ["avx512", "avx2", "portable"], "x86-64-v4"),
        ("x86_64", ["avx512", "avxvnni", "avx2", "portable"], "x86-64-v4"),
        ("AMD64", ["avxvnni", "avx2", "portable"], "x86-64-v3"),
        ("AMD64", ["avx2", "portable"], "x86-64-v3"),
        ("x86_64", ["portable"], "x86-64"),
        ("aarch64", ["i8mm", "dotprod", "neon", "portable"], "aarch64-dotprod"),
        ("arm64", ["dotprod", "neon", "portable"], "aarch64-dotprod"),
        ("aarch64", ["neon", "portable"], "aarch64"),
    ],
)
def test_profile_of_this_machine_is_the_best_that_it_can_run(
    monkeypatch: pytest.MonkeyPatch, machine_name: str, sets: list[str], profile: str
) -> None:
    every = ["amx", "avx512", "avxvnni", "avx2", "i8mm", "dotprod", "neon", "portable"]
    monkeypatch.setattr(board, "kernel_sets", lambda: [(name, name in sets) for name in every])
    monkeypatch.setattr(board.platform, "machine", lambda: machine_name)
    assert board.host_name() == profile and board.load("host").name == profile


def test_system_that_gives_no_thread_is_a_budget_error(tiny_image: Path) -> None:
    """RLIMIT_NPROC holds for others than root: the child becomes one."""
    code = (
        "import os, resource, sys\n"
        "from qedge.runtime import BudgetError, Model\n"
        "if os.geteuid() == 0: os.setgid(54321); os.setuid(54321)\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))\n"
        "try:\n"
        "    Model.open(sys.argv[1], threads=4)\n"
        "except BudgetError as error:\n"
        "    print(error)\n"
        "assert Model.open(sys.argv[1], threads=1).test()\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # others have to reach it
        Path(folder).chmod(0o755)
        image = shutil.copy(tiny_image, folder)
        done = subprocess.run(
            [sys.executable, "-c", code, image], capture_output=True, text=True
        )
    assert "or its threads" in done.stdout, done.stderr


def test_pinned_threads_are_as_many_as_there_are_cores(
    tiny_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_engine, "cpus", lambda: 1)
    with pytest.raises(UsageError, match="cannot be pinned"):
        Model.open(tiny_image, threads=2, pin=True)
    with pytest.raises(BudgetError):
        Model.open(tiny_image, memory=1)
