"""Quantizes a source tensor into the bytes that the engine reads (SPEC 2.4 and 3.5).

gguf's numpy quantizers are the definition of q4_0 and q8_0; this module pads rows, asks them
for
blocks, and lays the blocks out as the board's kernels want them.  A source of the very type
asked for
is copied block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qedge.runtime.errors import UsageError
from qedge.toolkit.source.model import SourceTensor

BLOCK = 32  # columns of a block; rows are padded to whole ones
TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}  # GGML's ids
_BLOCK_BYTES = {"f32": 128, "f16": 64, "q4_0": 18, "q8_0": 34}
_VALUES_AT_ONCE = 1 << 21  # 8 MiB of float32


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows interleaved, and columns kept together, in a tile of quantized weights."""

    rows: int
    group: int

    @property
    def code(self) -> int:
        return self.rows | self.group << 8


PLAIN = Layout(1, 1)


def layout_for(kind: str, board_layout: Layout) -> Layout:
    """f16 and f32 rows are never interleaved."""
    return board_layout if kind in ("q4_0", "q8_0") else PLAIN


def packed_bytes(kind: str, layout: Layout, rows: int, columns: int) -> int:
    """Bytes of a tensor in the image."""
    padded = -(-rows // layout.rows) * layout.rows
    return padded * (-(-columns // BLOCK)) * _BLOCK_BYTES[kind]


def _padded(values: np.ndarray) -> np.ndarray:
    missing = -values.shape[1] % BLOCK
    return np.pad(values, ((0, 0), (0, missing))) if missing else values


def blocks(values: np.ndarray, kind: str) -> np.ndarray:
    """float32 (rows, columns) to uint8 (rows, blocks, bytes of a block), in GGML's own
    order."""
    from gguf import GGMLQuantizationType, quants

    if kind == "f32":
        raw = np.ascontiguousarray(values, dtype="<f4").view(np.uint8)
    elif kind == "f16":
        with np.errstate(over="ignore"):
            raw = values.astype("<f2").view(np.uint8)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            raw = quants.quantize(values, GGMLQuantizationType[kind.upper()])
    return raw.reshape(values.shape[0], -1, _BLOCK_BYTES[kind])


def interleave(rows: np.ndarray, kind: str, layout: Layout) -> np.ndarray:
    """Blocks (rows, blocks, bytes) to tiles; missing rows of the last tile are zero."""
    if kind in ("f32", "f16"):
        return rows
    R, group = layout.rows, layout.group
    missing = -rows.shape[0] % R
    if missing:
        rows = np.pad(rows, ((0, missing), (0, 0), (0, 0)))
    count, width = rows.shape[1], _BLOCK_BYTES[kind] - 2
    grid = rows.reshape(-1, R, count, width + 2)
    tiles = np.empty((grid.shape[0], count, R * (width + 2)), dtype=np.uint8)
    tiles[..., : 2 * R].reshape(-1, count, R, 2)[...] = grid[..., :2].transpose(0, 2, 1, 3)
    quants = grid[..., 2:].reshape(-1, R, count, width // group, group).transpose(0, 2, 3, 1, 4)
    tiles[..., 2 * R :] = quants.reshape(-1, count, R * width)
    return tiles


def pack(tensor: SourceTensor, kind: str, layout: Layout) -> Iterator[np.ndarray]:
    """The tensor's bytes in the image, a few rows at a time (uint8 arrays, C order)."""
    if kind not in TYPES:
        raise UsageError(f"unknown type {kind}; known are {', '.join(TYPES)}")
    step = max(1, _VALUES_AT_ONCE // max(1, tensor.columns) // 16) * 16
    for start in range(0, tensor.rows, step):
        stop = min(start + step, tensor.rows)
        raw = None
        if tensor.source_type.lower() == kind and tensor.columns % BLOCK == 0:
            raw = tensor.raw(start, stop)
        if raw is not None:
            found = np.frombuffer(raw, np.uint8).reshape(stop - start, -1, _BLOCK_BYTES[kind])
        else:
            found = blocks(_padded(tensor.read(start, stop)), kind)
        packed = np.ascontiguousarray(interleave(found, kind, layout))
        del found
        tensor.release()
        yield packed
