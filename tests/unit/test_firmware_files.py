"""What `qedge firmware build` writes, and what it says when there is nothing to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from qedge.runtime.errors import ToolError, UsageError
from qedge.toolkit.bare import output
from qedge.toolkit.bare.firmware import failed
from qedge.toolkit.board import load
from qedge.toolkit.emulators.bare import Emulator

GNU = """\
ld: board.elf section `.bss' will not fit in region `RAM'
ld: region `RAM' overflowed by 7768 bytes
"""
LLVM = """\
ld.lld: error: section '.data' will not fit in region 'CODE': overflowed by 33020 bytes
ld.lld: error: section '.ARM.exidx' will not fit in region 'CODE': overflowed by 33152 bytes
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            GNU,
            "board pico, [device]: ram_bytes less stack_bytes and arena_bytes is 7,768 bytes",
        ),
        (LLVM, "board pico, [device]: code_bytes is 33,152 bytes too small for its firmware"),
    ],
)
def test_what_does_not_fit_is_said_by_the_board_file_s_key(text: str, message: str) -> None:
    why = failed(load("pico"), "gcc", text)
    assert isinstance(why, UsageError) and str(why).startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "slots.c:(.text+0x1c): undefined reference to `port_erase'\n" * 20,
        "ld.lld: error: undefined symbol: port_erase\n>>> referenced by slots.c\n" * 20,
    ],
)
def test_a_function_that_a_port_lacks_is_said_once(text: str) -> None:
    why = failed(load("pico"), "gcc", text)
    assert isinstance(why, ToolError) and "its port has no port_erase; firmware" in str(why)
    assert "a.c:1: error" in str(failed(load("pico"), "gcc", "a.c:1: error: oh"))


@pytest.mark.parametrize(
    ("board", "file", "message"),
    [
        ("mps2-m4", "x.uf2", "mps2-m4 takes no UF2 files; take .elf, .hex or .bin"),
        ("mps2-m4", "x.exe", r"firmware is written as .elf, .hex, .bin, .uf2"),
        ("sim", "x.hex", "sim runs as a process; take .elf"),
    ],
)
def test_an_ending_that_a_board_has_no_use_for_is_refused_before_it_is_built(
    board: str, file: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        output.write(load(board), tmp_path / file)


@pytest.mark.parametrize(
    ("name", "most"), [("pico", "rp2040js has 16,777,216"), ("mps2-m4", "an386 has 16,777,208")]
)
def test_flash_that_an_emulator_has_not_is_refused_by_name(
    name: str, most: str, tmp_path: Path
) -> None:
    path = tmp_path / "large.toml"
    text = (Path(__file__).parents[2] / "boards" / f"{name}.toml").read_text("utf-8")
    lines = ["flash_bytes = 33554432" if "flash_bytes" in x else x for x in text.splitlines()]
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(UsageError, match=rf"flash_bytes is 33,554,432, .*{most}"):
        Emulator(load(str(path)), tmp_path / "flash")
    assert not (tmp_path / "flash").exists()
