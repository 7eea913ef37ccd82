"""Pages that firmware/slots.c finds in flash: records, and marks of what was dropped."""

from __future__ import annotations

import struct
import zlib

RECORD, DROPPED = 0x54534551, 0x52444551
_PAGE = struct.Struct("<4I32s")  # magic, sequence, bytes, counter, id; a CRC-32 follows


def page(
    magic: int, image_id: bytes, *, sequence: int = 0, size: int = 0, counter: int = 0
) -> bytes:
    """What such a page begins with; the rest of it stays erased."""
    fields = _PAGE.pack(magic, sequence, size, counter, image_id)
    return fields + struct.pack("<I", zlib.crc32(fields))
