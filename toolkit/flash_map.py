"""What lies where in a microcontroller's flash and memory, as its board file says it, and what
of it cannot be. firmware/slots.c asserts the same of its flash."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qedge.toolkit.board import Device

PAGE_BYTES = 256  # what one program operation takes: QF_PAGE_BYTES of firmware/port.h
SLOTS, FLOOR_BLOCKS = 2, 2
VECTORS_BYTES = 4096  # room for them where they lie apart: firmware/cortex/link.ld


def wrong_flash(device: Device) -> str | None:
    """Slots lie in erase blocks of one size, floor and records in theirs: where a chip has
    sectors of several sizes, in those that are alike."""
    erase, block = device.erase_bytes, device.record_block
    apart = device.records_at is not None
    if not apart and device.record_bytes:
        return "record_bytes is for records apart from the slots: records_at is missing"
    for key, size in (("erase_bytes", erase), ("record_bytes", block)):
        if size % PAGE_BYTES or not size:
            return f"{key} {size:,} is not a multiple of a page, {PAGE_BYTES}"
    unit = "record_bytes" if apart else "erase_bytes"
    for key, of in (
        ("slot_at", "erase_bytes"),
        ("slot_bytes", "erase_bytes"),
        ("floor_at", unit),
        ("records_at", unit),
    ):
        if (getattr(device, key) or 0) % getattr(device, of):
            value, size = getattr(device, key), getattr(device, of)
            return f"{key} {value:,} is not a multiple of {of} {size:,}"
    if not device.image_bytes:
        return (
            "slot_bytes is two erase blocks at least: one for records, the others for an image"
        )
    slots = (device.slot_at, device.slot_at + SLOTS * device.slot_bytes)
    floor = (device.floor_at, device.floor_at + FLOOR_BLOCKS * block)
    records = (device.records_at or 0, device.records_of[1] + block)
    if _meet(slots, floor):
        return f"floor_at {device.floor_at:,} and its two erase blocks lie within the slots"
    if apart and (_meet(records, slots) or _meet(records, floor)):
        return f"records_at {records[0]:,} and its two erase blocks meet the slots or the floor"
    ends = {"slot_bytes": slots[1], "floor_at": floor[1]}
    for key, last in (ends | {"records_at": records[1]} if apart else ends).items():
        if last > device.flash_bytes:
            return f"{key}: ends at {last:,}, behind flash_bytes {device.flash_bytes:,}"
    if device.uf2_data and apart:
        return "uf2_data: a boot ROM drops records and image in one piece; leave out records_at"
    return _wrong_sectors(device) if device.sectors else None


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _wrong_sectors(device: Device) -> str | None:
    """What is erased is sectors of its own, of the size that its key says or, for records and
    floor, larger."""
    if not all(
        isinstance(row, list) and len(row) == 2 and all(type(n) is int and n > 0 for n in row)
        for row in device.sectors
    ):
        return "sectors is a list of [count, bytes]"
    sizes = [size for count, size in device.sectors for _ in range(count)]
    if sum(sizes) != device.flash_bytes:
        return f"sectors have {sum(sizes):,} bytes, flash_bytes is {device.flash_bytes:,}"
    starts = dict(zip(accumulate(sizes, initial=0), sizes))  # offset: bytes
    erased: dict[int, str] = {}
    slots = range(device.slot_at, device.slot_at + SLOTS * device.slot_bytes)
    floor = range(device.floor_at, device.floor_at + FLOOR_BLOCKS * device.record_block)
    parts: list[tuple[str, int, Sequence[int]]] = [
        ("slot_at", device.erase_bytes, slots[:: device.erase_bytes]),
        ("floor_at", device.record_block, floor[:: device.record_block]),
    ]
    if device.records_at is not None:
        parts.append(("records_at", device.record_bytes, device.records_of))
    for key, size, places in parts:
        for at in places:
            there = starts.get(at, 0)
            if there < size or (key == "slot_at" and there != size):
                what = f"a sector of {there:,} bytes" if there else "no sector"
                return f"{key}: at {at:#x} begins {what}, where one of {size:,} is wanted"
            erased[at] = key
    for key, at, size in _code(device):
        for start, key_there in erased.items():
            if _meet((at, at + size), (start, start + starts[start])):
                return f"{key} lies in the sector at {start:#x}, which {key_there} erases"
    return None


def _offset(device: Device, key: str) -> int:
    value: int | None = getattr(device, key)
    return -1 if value is None else value


def _code(device: Device) -> list[tuple[str, int, int]]:
    """(key, offset in flash, bytes) of what runs from flash."""
    found = [("code_at", device.code_at - device.flash_at, device.code_bytes)]
    if device.vectors_at is not None:
        found.append(("vectors_at", device.vectors_at - device.flash_at, VECTORS_BYTES))
    return [(key, at, size) for key, at, size in found if 0 <= at < device.flash_bytes]


def wrong_memory(device: Device) -> str | None:
    """Firmware in front of its data, arena and stack within RAM."""
    if device.is_process:
        return None
    for _, code, size in _code(device):
        for key in ("slot_at", "floor_at", "records_at"):
            if code <= _offset(device, key) < code + size:
                return f"{key} lies within the firmware, which code_bytes gives room"
    if device.arena_bytes + device.stack_bytes > device.ram_bytes:
        return (
            f"arena_bytes and stack_bytes are {device.arena_bytes + device.stack_bytes:,}, "
            f"more than ram_bytes {device.ram_bytes:,}"
        )
    return None
