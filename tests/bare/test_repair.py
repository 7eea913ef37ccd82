"""A microcontroller whose flash is damaged, or was written from outside: what it starts with,
what it says of that, and that flashing again mends it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from bare.conftest import MakeImage, put
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qedge.runtime.errors import ImageError, QedgeError, UsageError, VerifyError
from qedge.runtime.image import open_image
from qedge.toolkit.bare import uf2
from qedge.toolkit.bare.firmware import build
from qedge.toolkit.board import Board, device_of, load
from qedge.toolkit.device import flash, remote
from qedge.toolkit.emulators.bare import Emulator, make_flash
from qedge.toolkit.make import signature

TRIED = 0x52544551


def flip(place: Path, board: Board, slot: int, at: int) -> None:
    """A bit of a slot's image, or of its records when `at` is negative."""
    device = device_of(board)
    where = device.slot_at + slot * device.slot_bytes + device.erase_bytes + at
    with place.open("r+b") as file:
        file.seek(where)
        byte = file.read(1)[0]
        file.seek(where)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def place(tmp_path: Path, sim: Board, make_image: MakeImage) -> Path:
    """A flash with image 1 in slot 0 and image 2, which is active, in slot 1."""
    path = tmp_path / "flash.bin"
    with Emulator(sim, path) as emulator:
        device = emulator.connect()
        for seed in (1, 2):
            put(device, make_image("sim", seed=seed), sim)
        device.close()
    return path


def test_a_damaged_active_image_gives_way_at_start_and_that_is_said(
    place: Path, sim: Board, make_image: MakeImage
) -> None:
    flip(place, sim, 1, 100_000)
    with Emulator(sim, place) as emulator:
        device = emulator.connect()
        hello = device.hello()
        assert hello.active == 0 and hello.fell_back and hello.start_slot == 1
        assert "does not match" in device.start_error(hello)
        assert remote.test(device)
        assert put(device, make_image("sim", seed=2), sim).verified
        device.close()


def test_a_damaged_active_image_with_nothing_beside_it_does_not_run(
    tmp_path: Path, sim: Board, make_image: MakeImage
) -> None:
    path = tmp_path / "one.bin"
    with Emulator(sim, path) as emulator:
        device = emulator.connect()
        put(device, make_image("sim"), sim)
        device.close()
    flip(path, sim, 0, 100_000)
    with Emulator(sim, path) as emulator:
        device = emulator.connect()
        assert "does not match" in device.start_error(device.hello())
        with pytest.raises(VerifyError):
            list(remote.Run(device, "hello", 3))
        again = put(device, make_image("sim"), sim)
        assert again.verified and 0 < again.bytes_sent < make_image("sim").stat().st_size
        assert remote.test(device)
        device.close()


def test_one_flipped_bit_in_the_other_slot_is_mended_by_flashing_that_image(
    place: Path, sim: Board, make_image: MakeImage
) -> None:
    flip(place, sim, 0, 100_000)
    with Emulator(sim, place) as emulator:
        device = emulator.connect()
        with pytest.raises(VerifyError):
            remote.rollback(device)
        assert device.hello().slots[0].sequence == 0  # its record was not true
        assert put(device, make_image("sim", seed=1), sim).bytes_sent == 4096
        assert remote.test(device)
        device.close()


def test_a_write_of_nothing_costs_no_image(
    place: Path, sim: Board, make_image: MakeImage
) -> None:
    with Emulator(sim, place) as emulator:
        device = emulator.connect()
        board_id = device.hello().board_id
        for offset, data in ((0, b""), (5, bytes(256)), (1 << 31, bytes(256)), (0, b"x")):
            with pytest.raises(QedgeError):
                device.write(board_id, 0, offset, data)
        assert remote.rollback(device).image_id == open_image(make_image("sim")).id.hex()
        device.close()


def test_a_job_answers_whoever_began_it(place: Path, sim: Board, make_image: MakeImage) -> None:
    with Emulator(sim, place) as emulator:
        device = emulator.connect()
        first = device.job("run", prompt=b"hello", max=8)
        next(first)
        assert remote.test(device)  # another client's, on the same line
        with pytest.raises(QedgeError, match="another client"):
            next(first)
        device.close()


def test_small_sections_can_be_read_and_weights_cannot(
    place: Path, sim: Board, make_image: MakeImage
) -> None:
    image = open_image(make_image("sim", seed=2))
    with Emulator(sim, place) as emulator:
        device = emulator.connect()
        for kind in (1, 3, 4, 9):
            assert device.section(kind) == image.section(kind)
        assert device.section(4000) is None
        for kind in (0, 5, 7):
            with pytest.raises(UsageError):
                device.section(kind)
        device.close()


# ---- drag and drop ----


def drop(place: Path, board: Board, files: tuple[Path, ...]) -> None:
    """As the boot ROM does."""
    device = device_of(board)
    with place.open("r+b") as flash_file:
        for path in files:
            for address, _, part in uf2.decode(path.read_bytes()):
                flash_file.seek(address - device.flash_at)
                flash_file.write(part)


def dropped_on_sim(image: Path, place: Path, board: Board) -> None:
    """What a model's UF2 does to a board whose firmware is a process."""
    device, opened = device_of(board), open_image(image)
    data = uf2._dropped(opened.id, device) + opened.read(0, signature.end(opened))
    data += b"\xff" * (-len(data) % device.erase_bytes)
    with place.open("r+b") as file:
        file.seek(device.slot_at)
        file.write(data)


def test_what_was_dropped_on_a_used_board_is_what_runs_next(
    place: Path, sim: Board, make_image: MakeImage
) -> None:
    dropped_on_sim(make_image("sim", seed=9), place, sim)
    with Emulator(sim, place) as emulator:
        device = emulator.connect()
        assert device.hello().image_id == open_image(make_image("sim", seed=9)).id.hex()
        assert remote.rollback(device).active == 1  # and what was active is still there
        device.close()
    with Emulator(sim, place) as emulator:  # it is dropped once
        assert emulator.hello().active == 1


def test_a_damaged_drop_leaves_what_was_active_and_is_said_until_it_is_mended(
    place: Path, sim: Board, make_image: MakeImage
) -> None:
    dropped_on_sim(make_image("sim", seed=9), place, sim)
    flip(place, sim, 0, 100_000)
    for _ in range(2):
        with Emulator(sim, place) as emulator:
            device = emulator.connect()
            hello = device.hello()
            assert hello.active == 1 and hello.start_slot == 0 and not hello.fell_back
            assert "does not match" in device.start_error(hello)
            device.close()
    with Emulator(sim, place) as emulator:
        device = emulator.connect()
        assert put(device, make_image("sim", seed=9), sim).verified
        device.close()
    with Emulator(sim, place) as emulator:
        assert not emulator.hello().start_error


def test_an_image_that_ends_the_board_is_tried_three_times(
    place: Path, sim: Board, make_image: MakeImage
) -> None:
    dropped_on_sim(make_image("sim", seed=9), place, sim)
    page = struct.pack("<4I32s", TRIED, 0, 0, 0, bytes(32))
    page += struct.pack("<I", zlib.crc32(page))
    with place.open("r+b") as file:
        for number in (1, 2, 3):  # it was tried, and no more was written
            file.seek(device_of(sim).slot_at + 256 * number)
            file.write(page)
    with Emulator(sim, place) as emulator:
        device = emulator.connect()
        hello = device.hello()
        assert hello.active == 1 and "ended several times" in device.start_error(hello)
        device.close()


# ---- keys ----


@pytest.fixture(scope="module")
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def signed(image: Path, folder: Path, key: Ed25519PrivateKey, counter: int) -> Path:
    copy = folder / f"{counter}-{image.name}"
    copy.write_bytes(image.read_bytes())
    signature.sign(copy, key, counter)
    return copy


def test_a_drop_is_signed_and_not_older_or_it_does_not_run(
    tmp_path: Path, sim: Board, make_image: MakeImage, key: Ed25519PrivateKey
) -> None:
    path = tmp_path / "flash.bin"
    firmware = build(sim, key=key.public_key().public_bytes_raw())
    with Emulator(sim, path, firmware=firmware) as emulator:
        device = emulator.connect()
        put(device, signed(make_image("sim", seed=1), tmp_path, key, 3), sim)
        put(device, signed(make_image("sim", seed=2), tmp_path, key, 7), sim)
        device.close()
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
    other = make_image("sim", seed=9)
    for image, said in (
        (other, "signature"),
        (signed(other, tmp_path, stranger, 9), "signature"),
        (signed(other, tmp_path, key, 6), "security counter"),
    ):
        dropped_on_sim(image, path, sim)  # erases slot 0, and its records' counters
        with Emulator(sim, path, firmware=firmware) as emulator:
            device = emulator.connect()
            hello = device.hello()
            assert hello.active == 1 and hello.floor == 7
            assert said in device.start_error(hello)
            device.close()
    dropped_on_sim(signed(other, tmp_path, key, 8), path, sim)
    with Emulator(sim, path, firmware=firmware) as emulator:
        hello = emulator.hello()
        assert hello.image_id == open_image(other).id.hex() and hello.floor == 8


def test_the_floor_outlives_every_record(
    tmp_path: Path, sim: Board, make_image: MakeImage, key: Ed25519PrivateKey
) -> None:
    path, device = tmp_path / "flash.bin", device_of(sim)
    firmware = build(sim, key=key.public_key().public_bytes_raw())
    image = make_image("sim")
    for counter in range(1, 40):  # more than its two blocks hold
        with Emulator(sim, path, firmware=firmware) as emulator:
            link = emulator.connect()
            put(link, signed(image, tmp_path, key, counter), sim)
            link.close()
        data = bytearray(path.read_bytes())
        for slot in (0, 1):
            at = device.slot_at + slot * device.slot_bytes
            data[at : at + device.erase_bytes] = b"\xff" * device.erase_bytes
        path.write_bytes(data)
        with Emulator(sim, path, firmware=firmware) as emulator:
            assert emulator.hello().floor == counter


def test_an_unsigned_image_from_before_the_key_does_not_run(
    place: Path, sim: Board, key: Ed25519PrivateKey
) -> None:
    firmware = build(sim, key=key.public_key().public_bytes_raw())
    with Emulator(sim, place, firmware=firmware) as emulator:
        device = emulator.connect()
        assert "signature" in device.start_error(device.hello())
        for work in (lambda: remote.test(device), lambda: list(remote.Run(device, "a", 2))):
            with pytest.raises(ImageError, match="signature"):
                work()
        device.close()


def test_files_to_drop_keep_the_protection_or_are_refused(
    tmp_path: Path, make_image: MakeImage, key: Ed25519PrivateKey
) -> None:
    board, image = load("pico"), make_image("pico")
    mine = signed(image, tmp_path, key, 2)
    public = key.public_key().public_bytes_raw()
    with pytest.raises(UsageError, match="--key"):
        uf2.write(board, mine, tmp_path / "x.uf2")
    with pytest.raises(ImageError, match="not signed"):
        uf2.write(board, image, tmp_path / "x.uf2", public)
    assert not list(tmp_path.glob("*.uf2"))
    firmware, _ = uf2.write(board, mine, tmp_path / "x.uf2", public)
    place = tmp_path / "flash.bin"
    make_flash(place, device_of(board))
    drop(place, board, (firmware,))
    assert public in place.read_bytes()


def test_the_active_image_is_read_whole_before_it_is_called_verified(
    place: Path, sim: Board, make_image: MakeImage
) -> None:
    with Emulator(sim, place) as emulator:
        device = emulator.connect()
        plan = flash.plan(device, make_image("sim", seed=2), sim)
        assert plan.active
        flip(place, sim, 1, 100_000)  # between looking and doing
        with pytest.raises(VerifyError):
            flash.apply(device, plan)
        device.close()
