"""The power fails in an update: QEMU is killed, and with it what the disk's write cache
(qcow2's, of an overlay) and the system's had not flushed. Every time the board comes back with
the old or the new image, verified and tested, and an update goes on from there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from linux.conftest import MakeImage, Prepared, put

from qedge.runtime.errors import QedgeError
from qedge.runtime.model import Model
from qedge.toolkit.board import Board
from qedge.toolkit.device import flash, remote
from qedge.toolkit.device.reach import reach
from qedge.toolkit.emulators.linux import LinuxEmulator
from qedge.toolkit.link import Link
from qedge.toolkit.linux.ssh import Shell

SAMPLED = 6  # cuts; --all-cuts takes every one


class Cut:
    """Kills the board at a certain event of the link: each request sent is one, each answer
    received another."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, kill: Callable[[], None]) -> None:
        self.at, self.seen, self._kill = at, 0, kill
        send, receive = Link._send, Link._receive

        def cut_send(link: Link, data: bytes) -> None:
            send(link, data)
            self._event()

        def cut_receive(link: Link, head: bytes, until: float) -> object:
            found = receive(link, head, until)
            self._event()
            return found

        patch.setattr(Link, "_send", cut_send)
        patch.setattr(Link, "_receive", cut_receive)

    def _event(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            self._kill()


def update(board: Board, disk: Path, overlay: Path, image: Path, at: int) -> tuple[int, bool]:
    """An update with a cut; (events seen, whether it was cut)."""
    with (
        pytest.MonkeyPatch.context() as patch,
        LinuxEmulator(board, disk, overlay=overlay) as emulator,
    ):
        try:
            with reach(board, emulator.port, str(emulator.identity)) as there:
                cut = Cut(patch, at, emulator.kill)
                put(there, image, board)
        except QedgeError:
            return cut.seen, True
        return cut.seen, False


def test_a_working_image_is_there_whenever_the_power_fails(
    request: pytest.FixtureRequest,
    prepared: Prepared,
    linux_board: Board,
    make_image: MakeImage,
    tmp_path: Path,
) -> None:
    new = make_image(20, layers=3)
    hashes = {}
    for name, image in (("old", prepared.image), ("new", new)):
        with Model.open(image) as model:
            hashes[model.test()] = name
    events, was_cut = update(linux_board, prepared.disk, tmp_path / "whole", new, 0)
    assert not was_cut and events > 20
    points = range(1, events + 1)
    if not request.config.getoption("--all-cuts"):
        points = [1 + (events - 1) * n // (SAMPLED - 1) for n in range(SAMPLED)]
    came_back = {"old": 0, "new": 0}
    for at in points:
        overlay = tmp_path / f"cut-{at}"
        update(linux_board, prepared.disk, overlay, new, at)
        with (
            LinuxEmulator(linux_board, prepared.disk, overlay=overlay) as emulator,
            reach(linux_board, emulator.port, str(emulator.identity)) as there,
        ):
            came_back[hashes[remote.test(there.device)]] += 1
            plan = flash.plan(there.device, new, linux_board)
            flash.apply(there.device, plan)
            assert hashes[remote.test(there.device)] == "new"
        overlay.unlink()
    print(f"{len(list(points))} power cuts in {events} events: {came_back}")
    assert came_back["old"]


def test_the_disk_loses_what_was_not_flushed(
    prepared: Prepared, linux_board: Board, tmp_path: Path
) -> None:
    overlay = tmp_path / "overlay"
    with LinuxEmulator(linux_board, prepared.disk, overlay=overlay) as emulator:
        with Shell(emulator.port, str(emulator.identity)) as shell:
            shell.run("echo kept > /kept; sync; echo lost > /lost")
        emulator.kill()
    with (
        LinuxEmulator(linux_board, prepared.disk, overlay=overlay) as emulator,
        Shell(emulator.port, str(emulator.identity)) as shell,
    ):
        assert shell.run("cat /kept /lost").output == b"kept\n"


def test_an_installation_that_is_cut_is_made_again(
    linux_board: Board, make_image: MakeImage, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.ext4"
    with LinuxEmulator(linux_board, disk) as emulator:
        timer = threading.Timer(1.5, emulator.kill)
        timer.start()
        with (
            pytest.raises(QedgeError),
            reach(linux_board, emulator.port, str(emulator.identity)) as there,
        ):
            timer.join()  # the installation was faster
            there.device.hello()
        timer.join()
    with (
        LinuxEmulator(linux_board, disk) as emulator,
        reach(linux_board, emulator.port, str(emulator.identity)) as there,
    ):
        assert put(there, make_image(1), linux_board).verified
