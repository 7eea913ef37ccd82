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


OURS = ("CI", "PYTEST_ADDOPTS")  # which are meant for the tests that run these


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_user.py").write_text(USER_TEST)
    surroundings = {k: v for k, v in os.environ.items() if k not in OURS} | environment
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
    assert ("qedge: tests were skipped, no board" in done.stdout) != in_ci
    assert (done.returncode != 0) == in_ci


@pytest.mark.parametrize(
    "mark",
    [
        "qedge_memory(max=1000)",
        "qedge_memory()",
        "qedge_memory(0)",
        "qedge_memory('1M')",
        "qedge_memory(1, maximum=2)",
        "qedge_tokens_per_second(min=5)",
        "qedge_tokens_per_second(True)",
        "qedge_token_per_second(minimum=5)",
    ],
)
def test_a_mark_that_could_not_fail_is_an_error_before_any_test(
    mark: str, tmp_path: Path
) -> None:
    text = f"import pytest\n@pytest.mark.{mark}\ndef test_it(flashed_board): ...\n"
    (tmp_path / "test_mark.py").write_text(text)
    done = run(tmp_path)
    assert done.returncode == 4 and mark.split("(")[0] in done.stderr, done.stdout
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) < 4


@pytest.mark.parametrize(
    "name, said",
    [("nosuch", "nosuch"), ("pi5", "--port"), ("pico2", "--port"), ("x86-64", "profile")],
)
def test_a_board_that_no_test_can_run_on_is_one_line(
    name: str, said: str, tmp_path: Path
) -> None:
    done = run(tmp_path, "--board", name)
    assert done.returncode == 4 and said in done.stderr
    assert len(done.stderr.splitlines()) < 4


def test_a_board_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, "--board", "pico", "--port", "/dev/nothing-here")
    assert done.returncode != 0 and "cannot be opened" in done.stdout
    assert len(done.stdout.splitlines()) < 40 and "def reach" not in done.stdout  # no source
