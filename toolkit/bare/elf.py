"""Reads what the toolkit needs of the ELF files that compilers make for 32-bit Arm (System V
ABI, ELF-32): which bytes go where in memory, and what they are called."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from qedge.runtime.errors import ImageError

_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_SEGMENT = struct.Struct("<8I")
_SECTION = struct.Struct("<10I")
_SYMBOL = struct.Struct("<IIIBBH")
_LOAD = 1
_SYMTAB = 2


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes for `address` (where they are kept); they take `memory` bytes when they run."""

    address: int
    runs_at: int
    data: bytes
    memory: int


def segments(path: Path) -> list[Segment]:
    """The loadable segments, by address. ImageError when it is no such file."""
    data = path.read_bytes()
    try:
        head = _HEADER.unpack_from(data)
        if head[0][:6] != b"\x7fELF\x01\x01":
            raise ImageError(f"{path}: not an ELF file of a 32-bit processor")
        found = []
        for number in range(head[10]):
            kind, offset, virtual, physical, size, memory, _, _ = _SEGMENT.unpack_from(
                data, head[5] + number * head[9]
            )
            if kind == _LOAD and memory:
                found.append(Segment(physical, virtual, data[offset : offset + size], memory))
        return sorted(found, key=lambda segment: segment.address)
    except struct.error as error:
        raise ImageError(f"{path}: broken ELF file: {error}") from error


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name for `bytes` at an address. file: the source that a local one is of, without its
    folder; "" for a global one. kind: 1 for data, 2 for a function (ELF: st_info)."""

    name: str
    file: str
    address: int
    bytes: int
    kind: int


def symbols(path: Path) -> list[Symbol]:
    """Every symbol, in the file's order. ImageError when it has none, or is no such file."""
    data = path.read_bytes()
    try:
        head = _HEADER.unpack_from(data)
        sections = [
            _SECTION.unpack_from(data, head[6] + number * head[11])
            for number in range(head[12])
        ]
        table = next(section for section in sections if section[1] == _SYMTAB)
        names = sections[table[6]][4]
        found, file = [], ""
        for at in range(table[4], table[4] + table[5], _SYMBOL.size):
            name_at, value, size, info, _, _ = _SYMBOL.unpack_from(data, at)
            start = names + name_at
            name = data[start : data.index(b"\0", start)].decode()
            kind, is_local = info & 15, info >> 4 == 0
            if kind == 4:  # STT_FILE stands before the local ones that are its
                file = name
            else:
                address = value & ~1 if kind == 2 else value  # bit 0: it is Thumb code
                found.append(Symbol(name, file if is_local else "", address, size, kind))
        return found
    except (struct.error, StopIteration, IndexError, ValueError) as error:
        raise ImageError(f"{path}: no table of symbols: {error}") from error


def fill_boot_crc(path: Path, start: int) -> None:
    """Fills in the CRC that the RP2040's boot ROM wants behind the 252 bytes at `start`
    (datasheet 2.8.1.3.1: CRC-32/MPEG-2)."""
    data = bytearray(path.read_bytes())
    head = _HEADER.unpack_from(data)
    for number in range(head[10]):
        segment = _SEGMENT.unpack_from(data, head[5] + number * head[9])
        if segment[0] == _LOAD and segment[3] <= start and segment[4] >= 256:
            at = segment[1] + start - segment[3]
            crc = 0xFFFFFFFF
            for byte in data[at : at + 252]:
                crc ^= byte << 24
                for _ in range(8):
                    crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
            struct.pack_into("<I", data, at + 252, crc)
            path.write_bytes(data)
            return
    raise ImageError(f"{path}: no bytes at {start:#x} for the boot ROM")


def flat(path: Path, start: int) -> bytes:
    """The bytes that lie in flash from `start` on, gaps as erased flash has them."""
    out = bytearray()
    for segment in segments(path):
        if not segment.data:
            continue
        at = segment.address - start
        if at < 0:
            raise ImageError(f"{path}: bytes at {segment.address:#x}, before {start:#x}")
        out += b"\xff" * (at - len(out))
        out[at : at + len(segment.data)] = segment.data
    return bytes(out)


def intel_hex(path: Path) -> str:
    """The bytes for flash as Intel HEX (Intel, 1988): what `st-flash`, OpenOCD and most
    programmers take, and what leaves alone what lies between them."""
    lines = []
    for segment in segments(path):
        for at in range(0, len(segment.data), 16):
            address = segment.address + at
            if at == 0 or address & 0xFFFF < 16:  # the upper half of what follows
                lines.append(_record(0, 4, (address >> 16).to_bytes(2, "big")))
            row = segment.data[at : at + 16]
            room = 0x10000 - (address & 0xFFFF)
            lines.append(_record(address & 0xFFFF, 0, row[:room]))
            if row[room:]:
                lines.append(_record(0, 4, ((address >> 16) + 1).to_bytes(2, "big")))
                lines.append(_record(0, 0, row[room:]))
    return "\n".join([*lines, _record(0, 1, b""), ""])


def _record(address: int, kind: int, data: bytes) -> str:
    row = bytes([len(data), address >> 8, address & 0xFF, kind]) + data
    return f":{row.hex().upper()}{-sum(row) & 0xFF:02X}"
