"""Power may fail at any moment of an update: the board comes back with the old or the new
image."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from bare.conftest import MakeImage, compile_port, put

from qedge.runtime.errors import QedgeError
from qedge.runtime.image import open_image
from qedge.toolkit.bare.firmware import build
from qedge.toolkit.board import Board, device_of, load
from qedge.toolkit.device import flash
from qedge.toolkit.emulators.bare import Emulator, preload


@pytest.fixture(scope="module")
def apart(sim: Board) -> Board:
    """A board whose records lie in small erase blocks, and its slots in large ones."""
    device = replace(
        device_of(sim),
        erase_bytes=65536,
        slot_at=196608,
        slot_bytes=65536 * 2,
        records_at=180224,
        record_bytes=2048,
    )
    return replace(sim, device=device)


def test_records_apart_from_the_slots_keep_the_old_image_or_the_new_one(
    apart: Board, make_image: MakeImage, tmp_path: Path
) -> None:
    flash_file = tmp_path / "flash.bin"
    source = Path(__file__).with_name("power_cut.c")
    program = compile_port(source, tmp_path / "power_cut", "-O1", board=apart)
    with Emulator(apart, flash_file, firmware=build(apart)) as emulator:
        device = emulator.connect()
        assert device.hello().capacity == 131072 and device.hello().block == 65536
        for seed in (1, 2):
            put(device, make_image("sim", seed=seed, layers=1), apart)
        again = flash.plan(device, make_image("sim", seed=1, layers=1), apart)
        assert again.slot == 0 and not again.sent and not again.copied
        device.close()
    done = subprocess.run(
        [program, flash_file, make_image("sim", seed=9, layers=1), "31"],
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert found["neither"] == found["unfinished"] == 0 < found["new"] < found["old"]


def test_an_image_that_a_programmer_put_beside_the_records_is_taken_up(
    apart: Board, make_image: MakeImage, tmp_path: Path
) -> None:
    image = make_image("sim", seed=1, layers=1)
    preload(tmp_path / "flash.bin", apart, image)
    with Emulator(apart, tmp_path / "flash.bin", firmware=build(apart)) as emulator:
        hello = emulator.hello()
        assert hello.active == 0 and hello.image_id == open_image(image).id.hex()


@pytest.fixture(scope="module")
def power_cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("power_cut.c")
    return compile_port(source, tmp_path_factory.mktemp("cut") / "power_cut")


@pytest.mark.parametrize("before", [1, 2], ids=["into an empty slot", "over an older image"])
def test_every_operation_of_an_update_may_be_the_last(
    before: int,
    power_cut: Path,
    make_image: MakeImage,
    sim: Board,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flash_file = tmp_path / "flash.bin"
    with Emulator(sim, flash_file) as emulator:
        device = emulator.connect()
        for seed in range(before):
            put(device, make_image("sim", seed=seed + 1), sim)
        device.close()
    image = make_image("sim", seed=9)
    done = subprocess.run(
        [power_cut, flash_file, image, "7"], capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\n  power cut {found}")
    assert done.returncode == 0, found
    assert found["cuts"] == 5 * found["operations"] > 500
    assert found["neither"] == found["unfinished"] == 0
    assert found["old"] > 0 and found["new"] > 0 and found["finished"] > 50


def flash_operations(emulator_flash: Path, image: Path, board: Board) -> int:
    """How many erases and programs an update takes: blocks and pages that are not blank, and
    the record's."""
    device = device_of(board)
    data = image.read_bytes()
    data += b"\xff" * (-len(data) % device.erase_bytes)
    flash_bytes = emulator_flash.read_bytes()
    slot = device.slot_at + device.slot_bytes + device.erase_bytes  # the second one
    operations = 1
    for at in range(0, len(data), device.erase_bytes):
        there = flash_bytes[slot + at : slot + at + device.erase_bytes]
        if there == data[at : at + device.erase_bytes]:
            continue
        operations += there != b"\xff" * device.erase_bytes
        pages = [data[p : p + 256] for p in range(at, at + device.erase_bytes, 256)]
        operations += sum(page != b"\xff" * 256 for page in pages)
    return operations


def test_the_emulated_pico_comes_back_after_power_cuts(
    make_image: MakeImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = load("pico")
    old, new = make_image("pico", layers=1), make_image("pico", layers=1, seed=2)
    ids = {open_image(image).id.hex(): name for image, name in ((old, "old"), (new, "new"))}
    first = tmp_path / "first.bin"
    preload(first, board, old)
    with Emulator(board, first) as emulator:
        assert emulator.hello().active == 0
    count = flash_operations(first, new, board)
    found = {"old": 0, "new": 0, "neither": 0}
    points = [1, 2, count // 3, count - 1, count]
    for point in points:
        place = tmp_path / f"cut-{point}.bin"
        place.write_bytes(first.read_bytes())
        with Emulator(board, place, cut=point) as emulator:
            emulator.hello()  # or an emulator that starts slowly would look as if it were cut
            device = emulator.connect()
            with pytest.raises(QedgeError):
                plan = flash.plan(device, new, board)
                monkey = pytest.MonkeyPatch()
                monkey.setattr("qedge.toolkit.link.device.WRITE_PATIENCE", 3.0)
                monkey.setattr("qedge.toolkit.link.device.STEP_PATIENCE", 30.0)
                try:
                    flash.apply(device, plan)
                finally:
                    monkey.undo()
            device.close()
            assert emulator.wait_until_ended(10) == 75, "the power did not fail"
        with Emulator(board, place) as emulator:
            hello = emulator.hello()
            found[ids.get(hello.image_id or "", "neither")] += 1
            device = emulator.connect()
            assert flash.apply(device, flash.plan(device, new, board)).verified
            device.close()
    with capsys.disabled():
        print(f"\n  power cut on the emulated Pico, at operations {points} of {count}: {found}")
    assert found["neither"] == 0 and found["old"] + found["new"] == len(points)
