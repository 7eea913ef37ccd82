"""What is wrong with a board file is said by its key, before anything is built from it, and
keeps no other board from being used."""

from __future__ import annotations

import re
import shutil
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest

from qedge.runtime.errors import UsageError
from qedge.toolkit import board
from qedge.toolkit.board import parse
from qedge.toolkit.flash_map import FLOOR_BLOCKS, PAGE_BYTES, SLOTS

ROOT = Path(__file__).resolve().parents[2]
PICO = (ROOT / "boards" / "pico.toml").read_text("utf-8")
M4 = (ROOT / "boards" / "mps2-m4.toml").read_text("utf-8")
PI5 = (ROOT / "boards" / "pi5.toml").read_text("utf-8")

WRONG = [
    (PICO, "threads", "0", "board x: threads is 1 to 64, not 0"),
    (
        PICO,
        "leaf_bytes",
        "5000",
        "board x: leaf_bytes is a power of two, 256 to 1,048,576, not",
    ),
    (
        PICO,
        "alignment_bytes",
        "32",
        "alignment_bytes is a power of two, 64 to 1,048,576, not 32",
    ),
    (PICO, "batch_tokens", "1000", "board x: batch_tokens is 1 to 512, not 1,000"),
    (PICO, "layout_rows", "3", "board x: layout_rows is 1, 4, 16, not 3"),
    (PICO, "stack_bytes", "1001", "[device]: stack_bytes is a multiple of 8, 1,024 or more"),
    (PICO, "tick_hz", "5000000000", "[device]: tick_hz 5,000,000,000 is more than 32 bits"),
    (PICO, "layout_rows", "-4", "board x: layout_rows is below zero"),
    (PICO, "batch_tokens", '"4"', "board x: batch_tokens must be int, not '4'"),
    (PICO, "port", '"rp2041"', "[device]: port is one of host, mps, rp2040, rp2350, or ./"),
    (PICO, "emulator", '"renode"', "[device]: emulator is process, rp2040js, qemu, or none"),
    (PICO, "emulated_hz", "0", "[device]: an emulator has a clock: emulated_hz is missing"),
    (M4, "machine", '""', "[device]: emulator qemu needs its machine"),
    (PICO, "erase_bytes", "100", "[device]: erase_bytes 100 is not a multiple of a page, 256"),
    (PICO, "slot_bytes", "950273", "slot_bytes 950,273 is not a multiple of erase_bytes 4,096"),
    (PICO, "slot_bytes", "4096", "[device]: slot_bytes is two erase blocks at least"),
    (PICO, "slot_bytes", "1048576", "slot_bytes: ends at 2,293,760, behind flash_bytes"),
    (
        PICO,
        "floor_at",
        "200704",
        "[device]: floor_at 200,704 and its two erase blocks lie with",
    ),
    (PICO, "code_bytes", "200000", "[device]: slot_at lies within the firmware"),
    (PICO, "arena_bytes", "270336", "arena_bytes and stack_bytes are 278,528, more than ram"),
    (PICO, "tick_hz", "0", "[device]: tick_hz is at least 1"),
    (PI5, "cores", "-1", "[linux]: cores is below zero"),
]


@pytest.mark.parametrize(("text", "key", "value", "said"), WRONG, ids=lambda v: str(v)[:24])
def test_a_wrong_value_is_named_by_table_and_key(
    text: str, key: str, value: str, said: str
) -> None:
    changed, count = re.subn(rf"(?m)^{key} = [^#\n]*", f"{key} = {value} ", text)
    assert count == 1
    with pytest.raises(UsageError, match=re.escape(said)):
        parse("x", changed)


def test_what_only_emulated_boards_need_may_be_left_out() -> None:
    text = re.sub(r"(?m)^(emulator|emulated_hz|wrap|zig_cpu|machine|baud) = .*\n", "", M4)
    device = board.device_of(parse("x", text))
    assert not device.emulator and device.baud == 115200


def test_one_wrong_file_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards = tmp_path / "boards"
    shutil.copytree(ROOT / "boards", boards)
    (boards / "aaa.toml").write_text(PICO + "\nspeed = 1\n")
    (boards / "bbb.toml").write_text("isa = ")

    def files(name: str) -> object:
        return boards if name == "qedge.boards" else resources.files(name)

    monkeypatch.setattr(board, "resources", SimpleNamespace(files=files))
    assert board.load("pico").name == "pico"
    assert {"pico", "pi5"} <= {one.name for one in board.every()} and len(board.every()) > 20
    first, second = board.wrong_files()
    assert "board aaa, [device]: unknown key speed" in first and "board bbb: " in second
    with pytest.raises(UsageError, match="unknown key speed"):
        board.load("aaa")


def test_the_firmware_has_the_same_numbers() -> None:
    port = (ROOT / "firmware" / "port.h").read_text("utf-8")
    slots = "".join((ROOT / "firmware" / f"slots.{end}").read_text("utf-8") for end in "ch")
    assert f"QF_PAGE_BYTES = {PAGE_BYTES}" in port
    assert re.search(rf"SLOT_COUNT = {SLOTS}\b", slots)
    assert re.search(rf"FLOOR_BLOCKS = {FLOOR_BLOCKS}\b", slots)


def test_every_key_is_documented_and_none_that_is_not() -> None:
    page = (ROOT / "docs" / "own-board.md").read_text("utf-8").split("## Every key")[1]
    top, device, linux = re.split(r"(?m)^`\[(?:device|linux)\]`", page)
    for text, kind in ((top, board.Board), (device, board.Device), (linux, board.Linux)):
        cells = [row.split("|")[1] for row in text.splitlines() if row.startswith("| ")]
        found = {
            key: f"**`{key}`**" in cell for cell in cells for key in re.findall("`(.*?)`", cell)
        }
        wanted = {
            one.name: one.default is MISSING and one.default_factory is MISSING
            for one in fields(kind)
            if one.name not in ("name", "device", "linux")
        }
        assert found == wanted, kind.__name__
