"""Quantized bytes: gguf's, bit for bit, laid out as SPEC 3.5 says."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from qedge.toolkit.quantize import BLOCK, Layout, blocks, interleave, packed_bytes

RNG = np.random.default_rng(5)


def awkward(rows: int, columns: int) -> np.ndarray:
    values = RNG.standard_normal((rows, columns)).astype(np.float32)
    values[0] = 0
    values[1, :BLOCK] = np.float32(1e-30)
    values[2] *= np.float32(1e4)
    values[3, 3] = -np.abs(values[3]).max() * 2  # the largest is negative
    return values


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
def test_blocks_equal_ggufs_numpy_quantizer(kind: str) -> None:
    values = awkward(64, 96)
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind.upper()])
    assert blocks(values, kind).reshape(64, -1).tobytes() == expected.tobytes()


def value_at(tiles: np.ndarray, kind: str, layout: Layout, row: int, column: int) -> float:
    """One weight, read from the tiles by SPEC 3.5's formulas."""
    R, g = layout.rows, layout.group
    tile = tiles[row // R, column // 32]
    r, c = row % R, column % 32
    scale = tile[2 * r : 2 * r + 2].view("<f2")[0]
    j = c % 16 if kind == "q4_0" else c
    byte = int(tile[2 * R + j // g * R * g + r * g + j % g])
    if kind == "q8_0":
        return float(scale) * (byte - 256 if byte > 127 else byte)
    return float(scale) * ((byte & 15 if c < 16 else byte >> 4) - 8)


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
@pytest.mark.parametrize("rows", [1, 4, 8, 16])
@pytest.mark.parametrize("group", [4, 8])
def test_every_layout_holds_every_weight(kind: str, rows: int, group: int) -> None:
    values = awkward(21, 64)
    packed = blocks(values, kind)
    plain = gguf.quants.dequantize(
        packed.reshape(21, -1), gguf.GGMLQuantizationType[kind.upper()]
    )
    layout = Layout(rows, group)
    tiles = interleave(packed, kind, layout)
    assert tiles.nbytes == packed_bytes(kind, layout, 21, 64)
    for row in range(21):
        for column in range(64):
            assert value_at(tiles, kind, layout, row, column) == plain[row, column]


def test_rows_of_r1_are_ggmls_own_order() -> None:
    packed = blocks(awkward(8, 64), "q4_0")
    assert interleave(packed, "q4_0", Layout(1, 4)).tobytes() == packed.tobytes()
