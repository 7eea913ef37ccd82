"""The example of a board of one's own: an STM32F405, run by QEMU's netduinoplus2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.errors import UsageError, VerifyError, WriteError
from qedge.runtime.image import open_image
from qedge.runtime.model import Model
from qedge.toolkit.bare.elf import flat, intel_hex, segments
from qedge.toolkit.bare.firmware import build as build_firmware
from qedge.toolkit.board import Board, device_of, load, parse
from qedge.toolkit.device import flash, remote
from qedge.toolkit.emulators.bare import Emulator, missing, preload
from qedge.toolkit.link import LinkedDevice
from qedge.toolkit.make.build import build
from qedge.toolkit.make.signature import new_key, private_key, sign
from qedge.toolkit.source.locate import commander

FILE = Path(__file__).resolve().parents[2] / "examples" / "stm32f405" / "stm32f405.toml"
BOARD = load(str(FILE))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, config = tmp_path_factory.mktemp("stm32"), TinyConfig()
    write_gguf(folder / "tiny.gguf", config, make_weights(3, config))
    return build(folder / "tiny.gguf", BOARD, folder / "tiny.qimg", quant="q8_0").image


@pytest.fixture(scope="module")
def stm32(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinkedDevice]:
    if need := missing(BOARD):
        pytest.skip(need)
    place = tmp_path_factory.mktemp("flash") / "flash.bin"
    preload(place, BOARD, image)
    with Emulator(BOARD, place) as emulator:
        device = emulator.connect()
        yield device
        device.close()


def test_it_says_what_it_is(stm32: LinkedDevice, image: Path) -> None:
    hello = stm32.hello(patience=20)
    assert (hello.board, hello.kernels, hello.emulated) == ("stm32f405", "dsp", True)
    assert (hello.capacity, hello.block) == (393216, 131072)
    assert hello.image_id == open_image(image).id.hex() and not hello.start_error


def test_it_computes_what_this_machine_does(stm32: LinkedDevice, image: Path) -> None:
    with Model.open(image) as model:
        assert remote.test(stm32) == model.test()
        text = "".join(model.generate("Hello there", 8, hash=True, temperature=0.8, seed=3))
        made = remote.Run(stm32, "Hello there", 8, hash=True, temperature=0.8, seed=3)
        assert "".join(made) == text
        assert (made.tokens, made.logits_hash) == (model.tokens, model.logits_hash())
    fields = made.times.fields(stm32.hello(), BOARD)
    assert fields["emulated_instructions_per_token"] > 10_000


def test_a_reset_brings_it_back(stm32: LinkedDevice, image: Path) -> None:
    stm32.reset()
    assert stm32.hello(patience=20).image_id == open_image(image).id.hex()


def test_flashing_what_qemu_cannot_write_is_refused_by_name(
    stm32: LinkedDevice, image: Path, tmp_path: Path
) -> None:
    assert flash.apply(stm32, flash.plan(stm32, image, BOARD)).bytes_sent == 0
    config = TinyConfig()
    write_gguf(tmp_path / "other.gguf", config, make_weights(4, config))
    other = build(tmp_path / "other.gguf", BOARD, tmp_path / "other.qimg", quant="q8_0").image
    with pytest.raises(WriteError, match="netduinoplus2 cannot write the flash"):
        flash.plan(stm32, other, BOARD)
    with pytest.raises(VerifyError, match="does not read back"):  # and the board says so, too
        stm32.write(stm32.hello().board_id, 1, 0, bytes(256))


def test_an_image_goes_into_a_new_flash_file_only(image: Path, tmp_path: Path) -> None:
    (tmp_path / "flash.bin").write_bytes(b"mine")
    with pytest.raises(UsageError, match="is there already"):
        preload(tmp_path / "flash.bin", BOARD, image)


def test_its_firmware_stays_out_of_what_is_erased(tmp_path: Path) -> None:
    device, firmware = device_of(BOARD), build_firmware(BOARD)
    pieces = [s for s in segments(firmware.path) if s.data]
    assert pieces[0].address == device.vectors_at == device.flash_at
    assert all(s.address >= device.code_at for s in pieces[1:])
    assert firmware.ram_bytes <= device.ram_bytes
    stack, reset = (int.from_bytes(pieces[0].data[at : at + 4], "little") for at in (0, 4))
    assert device.ram_at < stack <= device.ram_at + device.ram_bytes and reset & 1


def from_hex(text: str, start: int) -> dict[int, int]:
    """Byte by address of an Intel HEX file."""
    found, upper = {}, 0
    for line in text.split():
        row = bytes.fromhex(line[1:])
        assert line[0] == ":" and sum(row) % 256 == 0 and row[0] == len(row) - 5
        if row[3] == 4:
            upper = int.from_bytes(row[4:6], "big") << 16
        elif row[3] == 0:
            at = upper + int.from_bytes(row[1:3], "big") - start
            found |= {at + i: byte for i, byte in enumerate(row[4:-1])}
    return found


def test_a_hex_file_has_every_byte_and_leaves_the_gaps_alone() -> None:
    start, path = device_of(BOARD).flash_at, build_firmware(BOARD).path
    found, whole = from_hex(intel_hex(path), start), flat(path, start)
    assert bytes(found.get(at, 0xFF) for at in range(len(whole))) == whole
    assert not any(0x4000 <= at < 0x20000 for at in found)  # records and floor


WRONG = [
    ("sectors", "[[4, 16384]]", "sectors have 65,536 bytes, flash_bytes is 1,048,576"),
    ("sectors", "[[1]]", "sectors is a list of [count, bytes]"),
    ("slot_at", "0", "floor_at 49,152 and its two erase blocks lie within the slots"),
    ("erase_bytes", "65536", "slot_at: at 0x40000 begins a sector of 131,072 bytes, where one"),
    ("floor_at", "0x10000", "floor_at: at 0x14000 begins no sector, where one of 16,384"),
    ("records_at", "0", "vectors_at lies in the sector at 0x0, which records_at erases"),
    ("records_at", "0x8000", "records_at 32,768 and its two erase blocks meet the slots or"),
    ("code_bytes", "131073", "code_at lies in the sector at 0x40000, which slot_at erases"),
    ("code_at", "0x08010000", "code_at lies in the sector at 0x10000, which floor_at erases"),
    ("record_bytes", "0", "record_bytes 0 is not a multiple of a page, 256"),
]


@pytest.mark.parametrize(("key", "value", "said"), WRONG)
def test_what_would_erase_the_wrong_sector_is_named_by_its_key(
    key: str, value: str, said: str
) -> None:
    text, count = re.subn(rf"(?m)^{key} = [^#\n]*", f"{key} = {value} ", FILE.read_text())
    assert count == 1
    with pytest.raises(UsageError, match=re.escape(f"board x, [device]: {said}")):
        parse("x", text.replace('port = "./"', 'port = "./x"'))


def test_a_boot_rom_cannot_drop_what_lies_in_two_places() -> None:
    text = FILE.read_text() + "\nuf2_data = 1\n"
    with pytest.raises(UsageError, match="uf2_data: a boot ROM drops records and image"):
        parse("x", text)


def test_a_model_that_ships_with_qedge_fits_its_slots_signature_and_all(tmp_path: Path) -> None:
    made = build(commander(), BOARD, tmp_path / "c.qimg", quant="q4_0")
    assert made.plan.context == 96 and made.plan.arena_bytes < device_of(BOARD).arena_bytes
    new_key(tmp_path / "key")
    sign(made.image, private_key(tmp_path / "key"), 1)
    preload(tmp_path / "flash", BOARD, made.image)
    assert made.image.stat().st_size <= device_of(BOARD).image_bytes


def other_board(**changes: object) -> Board:
    return replace(BOARD, device=replace(device_of(BOARD), **changes))  # type: ignore[arg-type]


def test_records_in_the_slots_would_cost_it_a_sector_each() -> None:
    within = device_of(other_board(records_at=None, record_bytes=0))
    assert within.image_bytes == 2 * 131072 and device_of(BOARD).image_bytes == 3 * 131072
