"""Drag-and-drop files: what the boot ROM would write is a board that starts with the image."""

from __future__ import annotations

from pathlib import Path

import pytest
from bare.conftest import MakeImage

from qedge.runtime.errors import ImageError, NoBoardError, WrongBoardError
from qedge.toolkit.bare import uf2
from qedge.toolkit.board import device_of, load
from qedge.toolkit.emulators.bare import Emulator, make_flash


def test_a_pico_starts_with_what_was_dropped_on_it(
    make_image: MakeImage, tmp_path: Path
) -> None:
    board, image = load("pico"), make_image("pico")
    device, place = device_of(board), tmp_path / "flash.bin"
    make_flash(place, device)
    with place.open("r+b") as file:
        for path in uf2.write(board, image, tmp_path / "x.uf2"):
            data = path.read_bytes()
            assert len(data) % 512 == 0
            for address, family, part in uf2.decode(data):
                assert family == 0xE48BFF56
                file.seek(address - device.flash_at)
                file.write(part)
    with Emulator(board, place) as emulator:
        hello = emulator.hello()
        assert hello.active == 0
        assert hello.slots[0].bytes == image.stat().st_size


def test_a_damaged_model_that_was_dropped_is_not_taken_up(
    make_image: MakeImage, tmp_path: Path
) -> None:
    board = load("sim")
    device, place = device_of(board), tmp_path / "flash.bin"
    make_flash(place, device)
    data = bytearray(make_image("sim").read_bytes())
    data[len(data) * 3 // 4] ^= 1
    with place.open("r+b") as file:
        file.seek(device.slot_at + device.erase_bytes)
        file.write(data)
    with Emulator(board, place) as emulator:
        assert emulator.hello().active is None


def test_what_cannot_be_dropped_is_refused(make_image: MakeImage, tmp_path: Path) -> None:
    with pytest.raises(NoBoardError, match="UF2"):
        uf2.write(load("sim"), make_image("sim"), tmp_path / "x.uf2")
    with pytest.raises(WrongBoardError):
        uf2.write(load("pico"), make_image("sim"), tmp_path / "x.uf2")
    with pytest.raises(ImageError):
        list(uf2.decode(b"x" * 512))
