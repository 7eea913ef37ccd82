"""Firmware as the files that programmers of chips take: ELF, Intel HEX, plain bytes, UF2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qedge.runtime.errors import UsageError
from qedge.toolkit.bare import uf2
from qedge.toolkit.bare.elf import flat, intel_hex
from qedge.toolkit.bare.firmware import Firmware, build
from qedge.toolkit.board import Board, device_of
from qedge.toolkit.files import new_file
from qedge.toolkit.make.build import check_output

ENDINGS = (".elf", ".hex", ".bin", ".uf2")


@dataclass(frozen=True, slots=True)
class Written:
    """What was built, as a file, and how that gets onto a board; none: it runs here."""

    firmware: Firmware
    path: Path
    way: str | None


def write(
    board: Board, output: Path, *, compiler: str | None = None, key: bytes | None = None
) -> Written:
    """Builds a board's firmware into a file of the output's ending; no ending: an ELF file.

    UsageError for another ending, and for one that the board has no use for; others: see
    firmware.build."""
    device, ending = device_of(board), output.suffix or ".elf"
    if ending not in ENDINGS:
        raise UsageError(f"{output}: firmware is written as {', '.join(ENDINGS)}")
    if device.is_process and ending != ".elf":
        raise UsageError(f"{output}: {board.name} runs as a process; take .elf")
    if ending == ".uf2" and not device.uf2_firmware:
        raise UsageError(f"{output}: {board.name} takes no UF2 files; take .elf, .hex or .bin")
    check_output(output)
    found = build(board, compiler=compiler, key=key)
    if ending == ".elf":
        data = found.path.read_bytes()
    elif ending == ".hex":
        data = intel_hex(found.path).encode()
    else:
        data = flat(found.path, device.flash_at)
    if ending == ".uf2":
        data = uf2.encode(data, device.flash_at, device.uf2_firmware, device.erase_bytes)
    with new_file(output) as file:
        file.write(data)
    return Written(found, output, _way(board, output, ending))


def _way(board: Board, output: Path, ending: str) -> str | None:
    device = device_of(board)
    if device.is_process:
        return None
    if ending == ".uf2":
        return f"to put it on a board: copy {output} to its USB drive (BOOTSEL held)"
    if ending == ".bin":
        start = f"{device.flash_at:#x}"
        return f"to put it on a board: its programmer writes {output} to {start}, gaps too"
    drive = ", or take -o X.uf2 for its USB drive" if device.uf2_firmware else ""
    return (
        f"to put it on a board: its programmer takes {output} (OpenOCD: program {output} "
        f"verify reset exit){drive}"
    )
