"""What the tests of bad images share: where the parts lie, hashes renewed after damage."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

PLAN, VOCAB, ROPE, WEIGHTS, GOLDEN, PROVENANCE = 2, 3, 5, 7, 8, 9


@dataclass(frozen=True, slots=True)
class Parts:
    """Offsets of an undamaged image, read as SPEC.md 3.1 says."""

    sections: dict[int, tuple[int, int]]  # type: (offset, bytes)
    leaf: int
    tree: int
    leaves: int
    checked: int


def parts(data: bytes) -> Parts:
    count, _, table = struct.unpack_from("<2IQ", data, 24)
    leaf, tree, leaves, _, checked = struct.unpack_from("<IQ2IQ", data, 44)
    sections = {}
    for number in range(count):
        kind, _, offset, size = struct.unpack_from("<2I2Q", data, table + 32 * number)
        sections[kind] = (offset, size)
    return Parts(sections, leaf, tree, leaves, checked)


def renew_hashes(data: bytearray) -> bytearray:
    """The hash tree that a writer would have given these bytes."""
    found = parts(data)
    at = found.tree
    for start in range(0, found.tree, found.leaf):
        data[at : at + 32] = hashlib.sha256(
            data[start : min(start + found.leaf, found.tree)]
        ).digest()
        at += 32
    data[at : at + 32] = hashlib.sha256(data[found.tree : at]).digest()
    return data


def with_section(path: Path, kind: int, at: int, new: bytes) -> bytearray:
    """The image at path with bytes of one section replaced, hashes renewed."""
    data = bytearray(path.read_bytes())
    offset, size = parts(data).sections[kind]
    assert at + len(new) <= size
    data[offset + at : offset + at + len(new)] = new
    return renew_hashes(data)
