"""UF2 files: what a Pico in its boot ROM's USB drive takes by drag and drop (UF2 specification;
RP2040 datasheet 2.8.4, RP2350 datasheet 5.5).

Firmware and model are files apart, so that either can be renewed alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from qedge.runtime.errors import ImageError, NoBoardError, UsageError
from qedge.runtime.image import open_image, verify_image
from qedge.toolkit.bare.elf import flat
from qedge.toolkit.bare.firmware import build
from qedge.toolkit.bare.records import DROPPED, page
from qedge.toolkit.board import Board, Device, device_of
from qedge.toolkit.device.flash import check_image
from qedge.toolkit.files import new_file
from qedge.toolkit.make import signature
from qedge.toolkit.make.build import check_output

FIRST, SECOND, LAST = 0x0A324655, 0x9E5D5157, 0x0AB16F30
FAMILY_GIVEN = 0x2000
PAYLOAD, BLOCK = 256, 512
_HEAD = struct.Struct("<8I")


def encode(data: bytes, address: int, family: int, erase: int) -> bytes:
    """Blocks of 256 bytes from an address on; filled up to whole erase blocks, as the ROM
    erases whole ones."""
    data += b"\xff" * (-len(data) % erase)
    count = len(data) // PAYLOAD
    return b"".join(
        _HEAD.pack(
            FIRST, SECOND, FAMILY_GIVEN, address + n * PAYLOAD, PAYLOAD, n, count, family
        )
        + data[n * PAYLOAD : (n + 1) * PAYLOAD].ljust(BLOCK - 36, b"\0")
        + struct.pack("<I", LAST)
        for n in range(count)
    )


def decode(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(address, family, bytes) of each block; ImageError for what is no UF2 file."""
    for at in range(0, len(data), BLOCK):
        block = data[at : at + BLOCK]
        if len(block) < BLOCK or block[-4:] != struct.pack("<I", LAST):
            raise ImageError(f"not a UF2 file: block {at // BLOCK} is broken")
        first, second, _, address, size, _, _, family = _HEAD.unpack_from(block)
        if (first, second) != (FIRST, SECOND) or size > BLOCK - 36:
            raise ImageError(f"not a UF2 file: block {at // BLOCK} is broken")
        yield address, family, block[32 : 32 + size]


def _dropped(image_id: bytes, device: Device) -> bytes:
    """The slot's first erase block: a mark that an image was dropped there, which the board
    then takes up, whatever was active before (firmware/slots.c)."""
    return page(DROPPED, image_id).ljust(device.erase_bytes, b"\xff")


def write(
    board: Board, image: Path, output: Path, key: bytes | None = None
) -> tuple[Path, Path]:
    """Writes NAME-firmware.uf2 and NAME-model.uf2 for an output NAME.uf2; returns both.

    key: the public key whose signatures the firmware will want (32 bytes). A signed image
    without one is refused, since the board would lose its protection; so is one that the key's
    owner did not sign. The model goes into the first slot, with a mark: the board verifies and
    tests it when it starts, and then activates it."""
    device = device_of(board)
    check_output(output)
    if not device.uf2_firmware:
        raise NoBoardError(f"{board.name} has no boot ROM that takes UF2 files; flash it by -p")
    opened = open_image(image)
    verify_image(opened, image)
    size = signature.end(opened)
    check_image(opened, size, image, device.image_bytes, device.arena_bytes, board)
    if key is not None:
        signature.check(opened, image, key, 0)
    elif signature.is_signed(opened):
        raise UsageError(
            f"{image}: is signed, and firmware without the key takes any image; give its "
            "public key with --key"
        )
    firmware = flat(build(board, key=key).path, device.flash_at)
    slot = device.flash_at + device.slot_at
    stem = output.name.removesuffix(".uf2")
    for_firmware, for_model = device.uf2_firmware, device.uf2_data
    files = []
    model = _dropped(opened.id, device) + opened.read(0, size)
    for what, bytes_, address, family in (
        ("firmware", firmware, device.flash_at, for_firmware),
        ("model", model, slot, for_model),
    ):
        path = output.with_name(f"{stem}-{what}.uf2")
        with new_file(path) as file:
            file.write(encode(bytes_, address, family, device.erase_bytes))
        files.append(path)
    return files[0], files[1]
