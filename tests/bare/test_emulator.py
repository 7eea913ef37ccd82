"""Emulators as neighbours: each ends with whoever started it, has its flash file to itself, and
flash as large as its board's file says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bare.conftest import MakeImage, put

from qedge.runtime.errors import NoBoardError, UsageError
from qedge.runtime.model import Model
from qedge.toolkit.board import device_of, every, load
from qedge.toolkit.device import remote
from qedge.toolkit.emulators.bare import Emulator, missing

COMMAND = [sys.executable, "-m", "qedge.toolkit"]


def that_name(file: Path) -> list[int]:
    """Processes whose command line or environment names a file; not ourselves."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                said = Path(f"/proc/{entry}/cmdline").read_bytes()
                said += Path(f"/proc/{entry}/environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(file) in said:
                found.append(int(entry))
    return found


def until(fact: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def flash_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "board.flash"
    yield path
    for number in that_name(path):  # of a test that failed
        os.kill(number, signal.SIGKILL)


@pytest.mark.parametrize("name", ["mps2-m4", "pico", "sim"])
def test_emulator_ends_with_whoever_started_it(name: str, flash_file: Path) -> None:
    if need := missing(load(name)):
        pytest.skip(need)
    child = subprocess.Popen(
        [*COMMAND, "emulate", name, "--flash-file", str(flash_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None and child.stdout.readline().startswith(b"/dev/")
    assert len(that_name(flash_file)) >= 2  # the emulator, too
    child.kill()
    child.communicate()
    assert until(lambda: not that_name(flash_file))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_emulator_that_is_ended_takes_its_process_along(
    flash_file: Path, number: signal.Signals
) -> None:
    child = subprocess.Popen(
        [*COMMAND, "emulate", "sim", "--flash-file", str(flash_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None and child.stdout.readline().startswith(b"/dev/")
    child.send_signal(number)
    child.communicate(timeout=60)
    assert child.returncode == 0 and not that_name(flash_file)


def test_second_emulator_on_a_flash_file_is_refused_until_the_first_ends(
    tmp_path: Path, make_image: MakeImage
) -> None:
    board, file = load("sim"), tmp_path / "flash"
    image = make_image("sim")
    with Emulator(board, file) as first:
        device = first.connect()
        refusal = pytest.raises(UsageError, match="another emulated board runs on it")
        (tmp_path / "link").symlink_to(file)
        for name in (file, tmp_path / "link"):
            with refusal, Emulator(board, name):
                pass
        put(device, image, board)
        device.close()
    with Emulator(board, file) as again:
        device = again.connect()
        with Model.open(image) as model:
            assert remote.test(device) == model.test()
        device.close()


def test_flash_is_as_large_as_the_board_file_says(
    tmp_path: Path, make_image: MakeImage
) -> None:
    """A Pico with 16 MiB, its slots behind the 2 MiB of the usual one."""
    pico = load("pico")
    if need := missing(pico):
        pytest.skip(need)
    slot_at = 13 << 20
    device = replace(device_of(pico), flash_bytes=16 << 20, slot_at=slot_at)
    board = replace(pico, device=device)
    image = make_image("pico")
    with Emulator(board, tmp_path / "flash") as emulator:
        linked = emulator.connect()
        done = put(linked, image, board)
        assert done.verified
        linked.close()
    data = (tmp_path / "flash").read_bytes()
    assert len(data) == (16 << 20) + 8
    start = slot_at + device.erase_bytes
    assert data[start : start + 8] == b"QEDGEIMG"


@pytest.mark.parametrize("name", ["pico2", "pi5"])
def test_board_without_an_emulator_is_told_which_have_one(name: str) -> None:
    done = subprocess.run([*COMMAND, "emulate", name], capture_output=True, text=True)
    assert done.returncode == NoBoardError.exit_code and done.stdout == ""
    assert done.stderr.startswith(f"NoBoardError: no emulator of a {name} is known, only of ")
    said = done.stderr
    with_one = [
        one.name
        for one in every()
        if (one.device and one.device.emulator) or (one.linux and one.linux.emulator)
    ]
    assert all(one in said for one in with_one) and "flash IMAGE -b" in said
    assert said.count("\n") == 1  # nothing was built before


def test_flash_file_that_is_another_boards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flash").write_bytes(b"short")
    with (
        pytest.raises(UsageError, match="not a flash file"),
        Emulator(load("sim"), tmp_path / "flash"),
    ):
        pass
