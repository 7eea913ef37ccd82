"""A board with Linux as a place of labgrid: its NetworkService is the address."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.labgrid_bench import running_bench

from qedge.toolkit.board import Board
from qedge.toolkit.device.reach import reach
from qedge.toolkit.emulators.linux import LinuxEmulator


def test_a_board_with_linux_is_reached_by_its_place(
    running: LinuxEmulator,
    linux_board: Board,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user, _, address = running.port.partition("@")
    host, _, port = address.partition(":")
    service = {"address": host, "username": user, "port": int(port)}
    with running_bench(tmp_path, {"board": {"NetworkService": service}}) as bench:
        bench.add("board", "rack/board/*")
        monkeypatch.setenv("LG_COORDINATOR", bench.address)
        with reach(linux_board, "labgrid:board", str(running.identity)) as there:
            assert there.hello.board == linux_board.name and there.port == running.port
            assert bench.holder("board") != ""
        assert bench.holder("board") == ""
