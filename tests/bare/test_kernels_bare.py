"""The microcontrollers' kernel sets against the portable one, on the processors that they are
for: entry by entry, on hard data, with the digest of every other machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conformance.test_kernels_equal import KERNELS_V2

from qedge.toolkit.bare.firmware import engine_flags, folders
from qedge.toolkit.board import device_of, load

CHECK = Path(__file__).parents[1] / "conformance"
SCRIPT = """
MEMORY {{ CODE (rx) : ORIGIN = 0, LENGTH = {code}  RAM (rwx) : ORIGIN = {ram}, LENGTH = 15M }}
ENTRY(_start)
SECTIONS {{
  .text : {{ KEEP(*(.vectors)) *(.text*) *(.rodata*) }} > CODE
  .ARM.exidx : {{ *(.ARM.exidx*) *(.ARM.extab*) }} > CODE
  .data : {{ *(.data*) *(.bss*) *(COMMON) }} > RAM
  end = .;
}}
"""


@pytest.mark.parametrize("name", ["mps2-m3", "mps2-m4", "mps2-m7", "mps3-m55"])
def test_the_board_s_kernels_equal_portable(name: str, tmp_path: Path) -> None:
    board = load(name)
    device = device_of(board)
    _, engine = folders()
    script, program = tmp_path / "board.ld", tmp_path / "check.elf"
    # the memory that stands for flash has room for all of the check's data
    script.write_text(SCRIPT.format(code=device.code_bytes, ram=device.flash_at))
    checks = [CHECK / f"kernel_{part}.c" for part in ("check", "rows", "attention", "matmul")]
    command = ["arm-none-eabi-gcc", "-mthumb", *device.cpu, "-std=gnu11", "-O2"]
    command += [*(flag for flag in engine_flags() if "-std" not in flag), "-w"]
    command += [f"-DSTACK_TOP={device.flash_at + (15 << 20):#x}"]
    command += [str(Path(__file__).with_name("bare.c")), *map(str, checks)]
    command += [*map(str, sorted((engine / "engine").rglob("*.c"))), "-nostartfiles"]
    command += ["--specs=rdimon.specs", f"-Wl,-T,{script},--no-warn-rwx-segments"]
    command += [f"-Wl,--wrap={name}" for name in device.wrap]
    command += ["-ffunction-sections", "-Wl,--gc-sections"]
    subprocess.run([*command, "-lm", "-o", str(program)], check=True)
    machine = ["qemu-system-arm", "-M", device.machine, "-display", "none", "-monitor", "none"]
    done = subprocess.run(
        [*machine, "-serial", "none", "-semihosting", "-kernel", str(program)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["sets"] == [board.kernels]
    assert found["digest"] == KERNELS_V2
