"""A service whose line goes missing: the agent ends with a sentence, and systemd starts it
anew, however often, until the line is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qedge.toolkit.board import load
from qedge.toolkit.linux import service

IMAGE: Any = SimpleNamespace(bytes=1 << 20, plan={"arena_bytes": 1 << 20})
RUNTIME = "runtime-0123456789abcdef"


def agent(root: Path, line: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "qedge.runtime.agent", "--root", str(root)]
    command += ["--board", "arm64", "--serial", line]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kind", ["missing", "a folder", "a file"])
def test_a_line_that_is_not_there_ends_the_agent_with_a_sentence(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "ttyUSB0"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a file":
        path.write_text("")
    with agent(tmp_path / "root", str(path)) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and said.count("\n") == 1
    assert said.startswith(f"{path}: ") and "the service waits for this line" in said


def test_a_line_that_goes_missing_ends_the_agent_and_one_that_comes_back_is_taken(
    tmp_path: Path,
) -> None:
    path, root = tmp_path / "ttyUSB0", tmp_path / "root"
    ours, theirs = os.openpty()
    path.symlink_to(os.ttyname(theirs))
    os.close(theirs)
    with agent(root, str(path)) as process:
        while not (root / "lock").exists() and not list(root.glob("*")):
            assert process.poll() is None
        path.unlink()
        os.close(ours)  # the line hangs up
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1 and "No such file" in said


def test_the_unit_starts_the_agent_anew_without_an_end() -> None:
    text = service.unit(load("pi5"), "/usr/bin/python3", RUNTIME, IMAGE, "/dev/ttyUSB0")
    assert "\nRestart=always\n" in text and "\nStartLimitIntervalSec=0\n" in text
    assert re.search(r"\nRestartSec=[1-9]\n", text) and "StartLimitBurst" not in text
    assert "\nDeviceAllow=/dev/ttyUSB0 rw\n" in text


def test_what_root_s_unit_starts_lies_where_only_root_writes() -> None:
    text = service.unit(load("pi5"), "/usr/bin/python3", RUNTIME, IMAGE)
    assert f"\nWorkingDirectory=/opt/qedge/{RUNTIME}\n" in text
    start = re.search(r"\nExecStart=(.*)\n", text)
    assert start is not None
    assert start[1].startswith("/usr/bin/python3 -E -s -m qedge.runtime.agent --root ")
    assert "/var/lib/qedge" in start[1] and "sh -c" not in start[1]
    assert not service.RUNTIMES.startswith(service.STATE)


@pytest.mark.parametrize(
    "line", ["/dev/tty USB", "/dev/%i", "/dev/$HOME", '/dev/"x', "/dev/a\nX=y"]
)
def test_a_line_s_name_is_one_word_of_the_unit(line: str) -> None:
    from qedge.runtime.errors import UsageError

    with pytest.raises(UsageError, match="no serial line's name"):
        service.unit(load("pi5"), "/usr/bin/python3", RUNTIME, IMAGE, line)
