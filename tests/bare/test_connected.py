"""`qedge boards --connected`: what answers now, and what is said of what does not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qedge.runtime.errors import UsageError
from qedge.toolkit.board import Board
from qedge.toolkit.cli import cli
from qedge.toolkit.device import connected
from qedge.toolkit.device.connected import boards_for, look
from qedge.toolkit.emulators.bare import Emulator


@pytest.fixture
def silent() -> Iterator[str]:
    ours, theirs = os.openpty()
    yield os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


def test_each_port_is_told_with_what_answers_there(
    sim: Board, silent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Emulator(sim, tmp_path / "sim.bin") as emulator:
        ports = [emulator.port, silent, "/dev/ttyACM99", "labgrid:rack"]
        given = [word for port in ports for word in ("-p", port)]
        cli.main(["boards", "--connected", "--json", *given], standalone_mode=False)
        found = json.loads(capsys.readouterr().out)["connected"]
        cli.main(["boards", "--connected", *given], standalone_mode=False)
        lines = capsys.readouterr().out.splitlines()
        hello = emulator.hello()
    assert [one["port"] for one in found] == ports
    assert found[0]["board"] == "sim" and found[0]["board_id"] == hello.board_id
    assert found[0]["emulated"] and found[0]["image_id"] is None
    assert "nothing answers" in found[1]["note"] and not found[1]["board"]
    assert "no such port" in found[2]["note"] and "not asked" in found[3]["note"]
    assert lines[0] == f"{emulator.port}: sim, id {hello.board_id}, image none, emulated"
    assert lines[1].startswith(f"{silent}: no board answers (nothing answers")
    assert len(lines) == 4


def test_without_ports_those_behind_usb_are_asked_and_none_is_said(
    silent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connected, "usb_ports", lambda: [silent])
    assert [one.port for one in look()] == [silent]
    monkeypatch.setattr(connected, "usb_ports", list)
    cli.main(["boards", "--connected"], standalone_mode=False)
    assert "no serial port is behind USB" in capsys.readouterr().out


def test_a_name_that_is_no_port_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="spy"):
        look(["spy:///dev/ttyACM0"])
    with pytest.raises(UsageError, match="goes with --connected"):
        cli.main(["boards", "-p", "/dev/ttyACM0"], standalone_mode=False)


@pytest.mark.parametrize(
    ("model", "machine", "names"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0", "aarch64", ["pi5"]),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "aarch64", ["pi3", "raspi3b"]),
        ("Raspberry Pi Zero 2 W Rev 1.0", "aarch64", ["pi-zero2"]),
        ("linux,dummy-virt", "aarch64", ["virt-a53", "virt-a72", "virt-a76"]),
        ("Something Else", "aarch64", ["arm64"]),
        ("", "aarch64", ["arm64"]),
        ("Something Else", "riscv64", []),
    ],
)
def test_a_machine_is_taken_for_the_boards_that_it_may_be(
    model: str, machine: str, names: list[str]
) -> None:
    assert [board.name for board in boards_for(model, machine)] == names
