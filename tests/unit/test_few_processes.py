"""Where the system gives few threads or processes, as a container with a limit of pids: a
sentence and exit code 7, nothing half written, and no word of an interruption."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qedge.runtime import BudgetError

# RLIMIT_NPROC holds for others than root: root becomes one that has no other process, and keeps
# but the right to read what is root's, as its Python may be (capset: DAC_OVERRIDE).
LIMITED = """
import ctypes, os, resource, sys
if os.geteuid() == 0:
    libc = ctypes.CDLL(None)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgid(54321); os.setuid(54321)
    assert libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(2, 2)) == 0
from qedge.toolkit import cli
resource.setrlimit(resource.RLIMIT_NPROC, (int(sys.argv.pop(1)),) * 2)
cli.main()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may write to."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def limited(count: int, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "QEDGE_CACHE": str(cwd / "cache"), "HOME": str(cwd)}
    environment.pop("OPENBLAS_NUM_THREADS", None)
    command = [sys.executable, "-c", LIMITED, str(count), *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120
    )


@pytest.mark.parametrize(
    "words",
    [
        ["build", "tiny.gguf", "-b", "x86-64", "-o", "out.qimg"],
        ["run", "tiny.qimg", "the rain", "-n", "3", "--threads", "4"],
        ["firmware", "build", "-b", "sim"],
        ["emulate", "sim"],
    ],
    ids=lambda words: words[0],
)
def test_no_thread_or_process_more_is_a_budget_error(
    folder: Path, tiny_gguf: Path, tiny_image: Path, words: list[str]
) -> None:
    for path in (tiny_gguf, tiny_image):
        shutil.copy(path, folder)
    before = sorted(path.name for path in folder.rglob("*.*") if path.suffix != ".lock")
    done = limited(1, *words, cwd=folder)
    assert done.returncode == BudgetError.exit_code, done.stderr
    assert "BudgetError: " in done.stderr and "Traceback" not in done.stderr
    assert "interrupted" not in done.stderr and done.stdout == ""
    after = sorted(path.name for path in folder.rglob("*.*") if path.suffix != ".lock")
    assert after == before


def test_one_thread_is_enough_for_a_run(folder: Path, tiny_image: Path) -> None:
    image = shutil.copy(tiny_image, folder)
    done = limited(1, "run", image, "the rain", "-n", "3", "--threads", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
