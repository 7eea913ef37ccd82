"""What the firmware is made of: builds by two compilers, no heap, and what boot ROMs want."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from bare.conftest import MakeImage

from qedge.runtime.errors import NoBoardError, ToolError
from qedge.runtime.model import Model
from qedge.toolkit import kept
from qedge.toolkit.bare import firmware
from qedge.toolkit.bare.elf import flat, segments
from qedge.toolkit.bare.firmware import build
from qedge.toolkit.board import device_of, load, names
from qedge.toolkit.emulators.bare import Emulator, preload

BARE = [name for name in names() if (d := load(name).device) and d.port != "host"]
HEAP = {"malloc", "calloc", "realloc", "free", "_sbrk", "sbrk"}


def symbols(path: Path) -> dict[str, int]:
    done = subprocess.run(["nm", path], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[2]: int(row[0], 16) for row in rows if len(row) == 3}


@pytest.mark.parametrize("name", BARE)
def test_it_fits_its_board_and_has_no_heap(name: str) -> None:
    board = load(name)
    device, firmware = device_of(board), build(board)
    assert firmware.code_bytes <= device.code_bytes
    assert firmware.ram_bytes <= device.ram_bytes
    assert device.arena_bytes + device.stack_bytes < firmware.ram_bytes
    found = symbols(firmware.path)
    assert not HEAP & found.keys()
    assert found["qf_stack_top"] - found["qf_stack_low"] == device.stack_bytes
    start = device.flash_at + device.slot_at
    for segment in segments(firmware.path):
        if segment.data and device.code_at == device.flash_at:
            assert segment.address + len(segment.data) <= start, "reaches into the slots"


def test_the_pico_s_second_stage_has_the_crc_that_its_rom_wants() -> None:
    device = device_of(load("pico"))
    data = flat(build(load("pico")).path, device.flash_at)
    crc = 0xFFFFFFFF
    for byte in data[:252]:
        for bit in range(7, -1, -1):
            top = crc >> 31 ^ (byte >> bit & 1)
            crc = (crc << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if top else 0)
    assert struct.unpack_from("<I", data, 252)[0] == crc
    stack, reset = struct.unpack_from("<2I", data, 256)
    assert device.ram_at + device.stack_bytes < stack <= device.ram_at + device.ram_bytes
    assert reset & 1 and device.flash_at < reset < device.flash_at + len(data)


def test_the_pico_2_has_an_image_definition_in_its_first_4_kib() -> None:
    device = device_of(load("pico2"))
    data = flat(build(load("pico2")).path, device.flash_at)
    block = struct.pack("<5I", 0xFFFFDED3, 0x10210142, 0x1FF, 0, 0xAB123579)
    assert 0 <= data.find(block) < 4096
    with pytest.raises(NoBoardError, match="no emulator"):
        Emulator(load("pico2"), Path("unused"))


def test_what_runs_while_the_pico_s_flash_is_away_calls_nothing_in_it() -> None:
    """Branches out of the functions in RAM: none leads to flash."""
    objdump = shutil.which("arm-none-eabi-objdump")
    assert objdump, "apt-get install binutils-arm-none-eabi"
    path = build(load("pico")).path
    text = subprocess.run(
        [objdump, "-d", "-j", ".data", path], capture_output=True, text=True, check=True
    ).stdout
    targets = re.findall(r"\s(?:bl|b\.?n?|b\w\w\.n)\s+([0-9a-f]{8})\s", text)
    assert len(targets) > 20
    away = [t for t in targets if not t.startswith("200")]
    # the one way back: open_flash begins with what may be in flash, before it is taken
    names_of = {address & ~1: name for name, address in symbols(path).items()}
    assert {names_of.get(int(t, 16), t) for t in away} <= {"__memset_veneer", "memset"}


@pytest.mark.parametrize("name", ["pico", "mps2-m3", "mps2-m4", "mps3-m55"])
def test_what_zig_builds_computes_the_same(
    name: str, make_image: MakeImage, tmp_path: Path
) -> None:
    board, image = load(name), make_image(name)
    preload(tmp_path / "flash.bin", board, image)
    with Emulator(
        board, tmp_path / "flash.bin", firmware=build(board, compiler="zig")
    ) as emulator:
        assert emulator.hello().active == 0, "the golden test did not pass"
        device = emulator.connect()
        with Model.open(image) as model:
            assert device.finish("test")["hash"].hex() == model.test()
        device.close()


def test_a_compiler_s_complaint_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="could not build"):
        build(load("sim"), folder=tmp_path, flags=["-DQF_SLOT_BYTES=1u", "-Werror"])
    left = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    assert all(path.name.startswith("objects-") for path in left), (
        "the engine's, which are whole"
    )
    assert not list(tmp_path.glob(".*.made-*"))
    with pytest.raises(ToolError, match="no compiler"):
        build(load("sim"), compiler="borland")


@pytest.mark.parametrize("home", [None, "/proc/self/nothing"])
def test_zig_builds_where_the_user_has_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path))
    for name in ("HOME", "XDG_CACHE_HOME", "ZIG_GLOBAL_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    if home:
        monkeypatch.setenv("HOME", home)
    chosen = next(c for c in firmware.compilers(device_of(load("pico"))) if c.name == "zig")
    source = tmp_path / "one.c"
    source.write_text("int one(void) { return 1; }")
    done = subprocess.run(
        [*chosen.command, *chosen.target, "-c", str(source), "-o", str(tmp_path / "one.o")],
        env=kept.zig_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.o").stat().st_size and (tmp_path / "zig_global_cache_dir").is_dir()
