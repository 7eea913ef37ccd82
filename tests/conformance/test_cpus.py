"""Which CPUs get a worker: trees as Linux shows them in /sys/devices, of unlike machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.toolchains import NATIVE, Programs

from qedge.runtime.errors import UsageError
from qedge.runtime.model import Model

LINUX = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux tells in /proc")


def siblings(pairs: list[tuple[int, ...]]) -> dict[str, str]:
    """Threads of one core name each other."""
    return {
        f"system/cpu/cpu{cpu}/topology/thread_siblings_list": ",".join(map(str, core))
        for core in pairs
        for cpu in core
    }


def numbers(file: str, values: list[int]) -> dict[str, str]:
    return {f"system/cpu/cpu{cpu}/{file}": str(value) for cpu, value in enumerate(values)}


HYBRID = {  # two big cores of two threads, four small ones
    "cpu_core/cpus": "0-3",
    "cpu_atom/cpus": "4-7",
    **siblings([(0, 1), (2, 3), (4,), (5,), (6,), (7,)]),
}
TREES = {
    "nothing is known": ({}, range(3), [0, 1, 2]),
    "two threads a core": (siblings([(0, 4), (1, 5)]), (0, 1, 4, 5), [0, 1]),
    "only the second thread is ours": (siblings([(0, 4), (1, 5)]), (4, 5), [4, 5]),
    "big and small cores of a PC": (HYBRID, range(8), [0, 2]),
    "only small cores are ours": (HYBRID, (4, 5), [4, 5]),
    "one list of several ranges": ({"cpu_core/cpus": "0,2-3,9"}, range(10), [0, 2, 3, 9]),
    "big.LITTLE": (numbers("cpu_capacity", [381, 381, 1024, 1024]), range(4), [2, 3]),
    "three kinds": (numbers("cpu_capacity", [250, 760, 1024]), range(3), [1, 2]),
    "frequencies alone": (
        numbers("cpufreq/cpuinfo_max_freq", [1800, 1800, 2400, 2500]),
        range(4),
        [2, 3],
    ),
    "capacity before frequency": (
        {
            **numbers("cpu_capacity", [1024, 1024]),
            **numbers("cpufreq/cpuinfo_max_freq", [1000, 3000]),
        },
        range(2),
        [0, 1],
    ),
    "not a number": ({"cpu_core/cpus": "all of them\n"}, range(2), [0, 1]),
}


@pytest.mark.parametrize("name", TREES)
def test_the_fastest_cores_are_chosen(programs: Programs, tmp_path: Path, name: str) -> None:
    files, allowed, expected = TREES[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{text}\n")
    (found,) = programs.run(NATIVE, "cpus_check", tmp_path, *allowed)
    assert found["chosen"] == expected


def places() -> list[str]:
    """The CPUs that each thread of this process may run on."""
    status = [task / "status" for task in Path("/proc/self/task").iterdir()]
    lines = [line for path in status for line in path.read_text().splitlines()]
    return [line.split()[1] for line in lines if line.startswith("Cpus_allowed_list")]


@LINUX
def test_a_pinned_worker_stays_on_its_cpu(tiny_image: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU: no second worker to place")
    with Model.open(tiny_image, threads=2) as free:
        expected = "".join(free.generate([7, 8, 9], 8, hash=True)), free.logits_hash()
        alone = sum(map(str.isdigit, places()))
        with Model.open(tiny_image, threads=2, pin=True) as pinned:
            assert sum(map(str.isdigit, places())) == alone + 1
            found = "".join(pinned.generate([7, 8, 9], 8, hash=True)), pinned.logits_hash()
    assert found == expected


def test_more_workers_than_cores_cannot_be_pinned(tiny_image: Path) -> None:
    with pytest.raises(UsageError, match="cannot be pinned"):
        Model.open(tiny_image, context=16, threads=64, memory="1G", pin=True)
