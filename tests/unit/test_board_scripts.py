"""The scripts that run on boards, as they are written: fixed, checked, and deleting only what
they name themselves. tests/ssh runs them on real shells."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from qedge.toolkit.linux.board import Facts
from qedge.toolkit.linux.shell import call, script

ROOT = Path(__file__).resolve().parents[2]


def scripts() -> Iterator[str]:
    for file in resources.files("qedge.toolkit.linux.shell").iterdir():
        if file.name.endswith(".sh") and file.name != "place.sh":
            yield file.name.removesuffix(".sh")


def test_scripts_pass_shellcheck(tmp_path: Path) -> None:
    checker = Path(sys.executable).with_name("shellcheck")
    assert checker.exists(), "pip install -e '.[test]'"
    names = sorted(scripts())
    assert len(names) >= 5
    for name in names:
        (tmp_path / f"{name}.sh").write_text(script(name))
    whole = [ROOT / "tests" / "packages.sh", *(ROOT / "toolkit" / "emulators").rglob("*.sh")]
    assert len(whole) >= 3
    done = subprocess.run(
        [checker, "-s", "sh", *tmp_path.glob("*.sh"), *whole], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_scripts_are_text_that_the_wire_does_not_change() -> None:
    for name in scripts():
        text = script(name)
        assert text.isascii() and "\r" not in text and "\0" not in text and "\t" not in text


def test_deletions_name_what_lies_in_the_folder_that_was_entered() -> None:
    for name in scripts():
        for line in script(name).splitlines():
            if "rm -rf" in line:
                assert (
                    'rm -rf -- "$new"' in line
                    or 'rm -rf -- "$old"' in line
                    or ('rm -rf -- "./$old"' in line)
                ), line
            assert "eval" not in line and "--no-preserve" not in line


@pytest.mark.parametrize("bad", ["", "a b", "$HOME", "it's", "x\n", "é", "*", "~", "a;b"])
def test_a_word_that_some_shell_would_change_is_never_sent(bad: str) -> None:
    with pytest.raises(ValueError, match="word"):
        call("true", bad)


def test_what_a_board_says_is_framed_so_that_no_value_ends_or_begins_another() -> None:
    rows = b"model=Pi\nmachine=x=y\0machine=aarch64\0root=/a\nwritable=yes\x1b[2J\0end=yes\0"
    facts = Facts.parse(rows)
    assert facts.machine == "aarch64" and not facts.writable
    assert facts.root == "/a\\x0awritable=yes\\x1b[2J"
    assert facts.model == "Pi\\x0amachine=x=y"
