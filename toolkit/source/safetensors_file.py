"""The tensor table of a safetensors file: a length, a JSON header, then the data.

Format: github.com/huggingface/safetensors, README, "Format".  The library's numpy side knows no
BF16, so the rows are read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.opened import SourceFile, Stretch, parse_json

HEADER_LIMIT_BYTES = 100_000_000  # the library's own
LENGTH_BYTES = 8
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray:
    """One tensor of the file: its type, its shape and its place."""

    type_name: str
    shape: tuple[int, ...]
    file: SourceFile
    at: int

    def rows(self, rows: int, row_bytes: int) -> Stretch:
        """Its bytes as so many rows."""
        return Stretch(self.file, self.at, rows, row_bytes)


def read_table(file: SourceFile) -> dict[str, StoredArray]:
    """Every tensor by name; ImageError when the header or a place in the file is wrong."""
    path = file.path
    if file.size < LENGTH_BYTES:
        raise ImageError(f"{path}: {file.size} bytes is too short for a safetensors file")
    length = int.from_bytes(file.read(0, LENGTH_BYTES), "little")
    if length > min(HEADER_LIMIT_BYTES, file.size - LENGTH_BYTES):
        raise ImageError(
            f"{path}: cut short or damaged: a header of {length} bytes in a file of "
            f"{file.size}; fetch it again"
        )
    start = LENGTH_BYTES + length
    header = parse_json(file.read(LENGTH_BYTES, length), path, "the safetensors header")
    header.pop("__metadata__", None)
    return {name: _array(name, entry, file, start) for name, entry in header.items()}


def _array(name: str, entry: Any, file: SourceFile, start: int) -> StoredArray:
    path, data_bytes = file.path, file.size - start
    if not name.isprintable():
        raise ImageError(f"{path}: {name!r:.80} is not a printable tensor name; it is damaged")
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    type_name = fields.get("dtype")
    shape: Any = fields.get("shape")
    place: Any = fields.get("data_offsets")
    if not (isinstance(type_name, str) and _sizes(shape) and _sizes(place) and len(place) == 2):
        raise ImageError(
            f"{path}: the entry of {name:.80} needs dtype, shape and data_offsets; "
            "the file is damaged"
        )
    begin, end = place
    if not begin <= end <= data_bytes:
        raise ImageError(
            f"{path}: cut short or damaged: {name:.80} lies at bytes {begin} to {end} of "
            f"{data_bytes} bytes of data; fetch it again"
        )
    item_bytes = ITEM_BYTES.get(type_name)
    if item_bytes is not None:
        size = item_bytes
        for count in shape:
            size *= count
        if size != end - begin:
            raise ImageError(
                f"{path}: {name:.80} is {type_name} {shape}, which is {size} bytes, "
                f"but has {end - begin}; the file is damaged"
            )
    return StoredArray(type_name, tuple(shape), file, start + begin)


def _sizes(value: Any) -> bool:
    # A product of at most 8 numbers below 2^64 stays a small integer.
    return (
        isinstance(value, list)
        and len(value) <= 8
        and all(type(item) is int and 0 <= item < 1 << 64 for item in value)
    )
