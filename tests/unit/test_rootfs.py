"""The Debian of emulated boards, where its parts cannot be had."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from qedge.runtime.errors import ToolError
from qedge.toolkit.emulators.rootfs import Apt

APT = """#!/bin/sh
[ "$1 $WORKS" = "install yes" ] && exit 0
echo "$1: Mirror sync in progress?" >&2
exit 100
"""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    """Behind a mirror in the middle of its sync: `update` fails."""
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(APT)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("WORKS", "yes")
    return Apt(tmp_path / "apt")


def test_a_mirror_in_the_middle_of_its_sync_may_still_have_the_packages(apt: Apt) -> None:
    apt.install("hello")


def test_where_it_has_not_both_failures_are_said(
    tmp_path: Path, apt: Apt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKS", "no")
    again = Apt(tmp_path / "again")
    with pytest.raises(ToolError, match=r"install: Mirror sync.*\(before: .*update: Mirror"):
        again.install("hello")
