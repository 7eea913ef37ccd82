"""Instructions a block and row of a matrix on microcontrollers, counted, by type of weights.

    python bench/mcu_kernels.py [--boards pico,mps2-m4] [--types q4_0,a4] [--json FILE]
                                [--csv FILE]

A board's kernels, compiled as its firmware is, multiply a matrix of 64 rows and 256 columns by
one row of activations under QEMU (the Cortex-M0+'s code runs on a Cortex-M3); instructions are
counted by a TCG plugin.  A block has 32 columns.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from arm import build_plugin
from common import stamp, write_csv, write_json

from qedge.runtime._engine import TYPES
from qedge.toolkit.bare.firmware import FLAGS, engine_flags, folders
from qedge.toolkit.board import Device, device_of, load

BOARDS = ("pico", "mps2-m3", "mps2-m4", "mps2-m7", "mps3-m55")
PLAIN = ("f32", "f16", "bf16")
ROWS, BLOCKS = 64, 8
SCRIPT = """
MEMORY {{ CODE (rx) : ORIGIN = 0, LENGTH = 4M  RAM (rwx) : ORIGIN = {ram}, LENGTH = 256K }}
ENTRY(_start)
SECTIONS {{
  .text : {{ KEEP(*(.vectors)) *(.text*) *(.rodata*) }} > CODE
  .ARM.exidx : {{ *(.ARM.exidx*) *(.ARM.extab*) }} > CODE
  .bss : {{ *(.bss*) *(COMMON) }} > RAM
  .data : {{ *(.data*) }} > CODE
}}
"""


def compiled(device: Device, ram: int, work: Path) -> list[str]:
    """The command that links, with the kernels compiled."""
    _, engine = folders()
    command = ["arm-none-eabi-gcc", "-mthumb", *device.cpu, *engine_flags(), *FLAGS]
    command += ["-ffunction-sections", "-fno-tree-loop-distribute-patterns"]
    code = sorted((engine / "engine" / "kernels").glob("*.c"))
    subprocess.run([*command, "-c", *map(str, code)], check=True, cwd=work)
    (work / "board.ld").write_text(SCRIPT.format(ram=ram))
    objects = [str(work / path.with_suffix(".o").name) for path in code]
    link = ["-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections"]
    link += [f"-Wl,-T,{work / 'board.ld'},--no-warn-rwx-segments"]
    link += [f"-Wl,--wrap={name}" for name in device.wrap]
    return [*command, *objects, *link, f"-DSTACK_TOP={ram + (256 << 10):#x}"]


def counted(program: Path, machine: str, work: Path) -> int:
    out = work / "counts"
    command = ["qemu-system-arm", "-M", machine, "-display", "none", "-monitor", "none"]
    command += ["-serial", "none", "-semihosting", "-kernel", str(program)]
    command += ["-plugin", f"{build_plugin()},out={out}"]
    subprocess.run(command, check=True, timeout=300)
    return sum(int(line.split()[1]) for line in out.read_text().splitlines())


def measure(name: str, types: list[str]) -> list[dict[str, Any]]:
    device = device_of(load(name))
    emulated = device if device.machine else device_of(load("mps2-m3"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        link = compiled(device, emulated.ram_at, work)
        for kind in types:
            found = []
            for repeat in (1, 3):
                program = work / f"{kind}-{repeat}.elf"
                source = Path(__file__).parent / "native" / "mcu_matmul.c"
                numbers = [f"-DTYPE={TYPES[kind]}", f"-DREPEAT={repeat}"]
                subprocess.run([*link, *numbers, str(source), "-o", str(program)], check=True)
                found.append(counted(program, str(emulated.machine), work))
            each = (found[1] - found[0]) / 2 / ROWS / BLOCKS
            rows.append({"board": name, "type": kind, "instructions": round(each, 1)})
            print(f"{name:9} {kind:7} {each:8.1f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boards", default=",".join(BOARDS))
    parser.add_argument("--types", default=",".join(t for t in TYPES if t not in PLAIN))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.boards.split(","):
        rows += measure(name, options.types.split(","))
    write_json(options.json, {"about": stamp(), "rows": rows})
    write_csv(options.csv, rows, stamp())


if __name__ == "__main__":
    main()
