"""The pytest plugin, in a pytest of its own: what it does where an emulator is missing, and
that a user's test needs nothing but its fixtures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

USER_TEST = """
import json
import pytest

@pytest.mark.qedge_memory(maximum=100_000)
def test_it_knows_the_lamp(flashed_board):
    answer = flashed_board.run("turn off the lamp in the kitchen please\\n")
    assert json.loads(answer.text)["device"] == "lamp"

@pytest.mark.qedge_memory(maximum=1000)
def test_it_takes_too_much(flashed_board):
    pass
"""


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_user.py").write_text(USER_TEST)
    surroundings = {k: v for k, v in os.environ.items() if k != "CI"} | environment
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_user_s_tests_need_the_fixtures_only(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert "1 passed, 1 error" in done.stdout, done.stdout
    assert "at most 1,000" in done.stdout


@pytest.mark.parametrize("in_ci", [False, True])
def test_a_missing_emulator_is_a_skip_here_and_an_error_in_ci(
    in_ci: bool, tmp_path: Path
) -> None:
    environment = {"PATH": str(tmp_path), **({"CI": "1"} if in_ci else {})}
    done = run(tmp_path, "--board", "mps2-m4", **environment)
    assert "install qemu-system-arm" in done.stdout
    assert ("2 errors" if in_ci else "2 skipped") in done.stdout
    assert (done.returncode != 0) == in_ci


def test_a_board_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, "--board", "pico", "--port", "/dev/nothing-here")
    assert done.returncode != 0 and "cannot be opened" in done.stdout
