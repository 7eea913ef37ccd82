"""What a board says of itself, and which boards are refused for it, before anything is put
there."""

from __future__ import annotations

import contextlib
import random

import pytest

from qedge.runtime.errors import (
    NoBoardError,
    QedgeError,
    UsageError,
    WriteError,
    WrongBoardError,
)
from qedge.toolkit.board import load
from qedge.toolkit.device.reach import is_address
from qedge.toolkit.linux.board import Facts, check
from qedge.toolkit.linux.ssh_connect import Address

PI5 = """\
model=Raspberry Pi 5 Model B Rev 1.0
revision=00c04170
serial=1f2e3d4c5b6a7988
machine=aarch64
kernel=6.6.31+rpt-rpi-2712
page=16384
ram=4241850368
available=3900000000
cgroup=
throttled=0x0
clock=1767225600
root=/home/pi/.local/share/qedge
writable=yes
free=20000000000
python=python3 3.11 /usr/bin/python3
python=python3.11 3.11 /usr/bin/python3.11
"""


def facts_of(text: str) -> Facts:
    """Of a probe's answer, a fact a line."""
    return Facts.parse(text.replace("\n", "\0").encode())


def test_a_board_s_facts_are_read() -> None:
    facts = facts_of(PI5)
    assert (facts.page, facts.ram, facts.serial) == (16384, 4241850368, "1f2e3d4c5b6a7988")
    assert facts.pythons[0][:2] == ("python3", "3.11") and facts.writable
    assert check(facts, load("pi5"), "pi") == "python3"


def test_a_cgroup_s_limit_counts_as_ram() -> None:
    assert facts_of(PI5.replace("cgroup=", "cgroup=268435456")).ram == 268435456


def test_any_arm64_board_takes_any_model() -> None:
    assert check(facts_of(PI5), load("arm64"), "pi")


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("model=Raspberry Pi 4 Model B Rev 1.4", WrongBoardError, "not a pi5"),
        ("model=", WrongBoardError, "without a model"),
        ("machine=armv7l", WrongBoardError, "64-bit system"),
        ("writable=", WriteError, "cannot be written"),
        ("clock=0\nnoexec=yes", WriteError, "mounted noexec"),
    ],
)
def test_a_mismatch_is_refused(line: str, kind: type[QedgeError], said: str) -> None:
    key = line.split("=")[0] + "="
    text = "\n".join(line if row.startswith(key) else row for row in PI5.splitlines())
    with pytest.raises(kind, match=said):
        check(facts_of(text), load("pi5"), "pi")


def test_an_old_python_is_refused_and_named() -> None:
    text = PI5.replace("python3 3.11", "python3 3.9").replace(
        "python3.11 3.11", "python3.10 3.9"
    )
    with pytest.raises(NoBoardError, match=r"needs Python 3\.10 or later, has python3 3\.9"):
        check(facts_of(text), load("pi5"), "pi")
    with pytest.raises(NoBoardError, match="has none"):
        check(facts_of(PI5.replace("python=", "other=")), load("pi5"), "pi")


def test_a_later_python_beside_an_old_one_is_taken() -> None:
    text = PI5.replace("python=python3 3.11", "python=python3 3.9")
    assert check(facts_of(text), load("pi5"), "pi") == "python3.11"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pi@10.0.0.5", Address("10.0.0.5", "pi")),
        ("pi@[fe80::1]:2222", Address("fe80::1", "pi", 2222)),
        ("raspberrypi.local", Address("raspberrypi.local")),
        ("ssh://pi@host:22", Address("host", "pi", 22)),
    ],
)
def test_addresses(text: str, found: Address) -> None:
    assert Address.parse(text) == found and is_address(text)


@pytest.mark.parametrize("text", ["", "a b@c", "pi@", "pi@host:0", "pi@host:99999", "@host"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(text)


@pytest.mark.parametrize("port", ["/dev/ttyACM0", "socket://localhost:4000", "rfc2217://h:1"])
def test_a_serial_line_is_no_address(port: str) -> None:
    assert not is_address(port)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_board_prints_is_facts_or_a_refusal(seed: int) -> None:
    dice = random.Random(seed)
    odd = [
        "",
        "=",
        "x",
        "1e999",
        "nan",
        "-1",
        "max",
        "python3 3.x",
        "python3 3.11 4",
        "\0",
        "\x1b[2J",
    ]
    odd += ["9" * 999, "9" * 9999]
    for _ in range(200):
        lines = [
            f"{line.partition('=')[0]}={dice.choice(odd)}" if dice.random() < 0.3 else line
            for line in PI5.splitlines()
        ]
        facts = facts_of("\n".join(lines))
        with contextlib.suppress(QedgeError):
            assert check(facts, load("pi5"), "pi")
