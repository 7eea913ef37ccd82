"""Every type of GGML that an image may hold: its weights are the very numbers that ggml's
reference gives, in every layout, read by gguf-py and, where that knows no better, by numpy
here."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from qedge.runtime._engine import TYPES
from qedge.toolkit.quant import _tiles
from qedge.toolkit.quant.quantize import STORED, pack, packed_bytes
from qedge.toolkit.source.model import SourceTensor

ROWS, COLUMNS = 21, 512
BLOCKS = {"Q1_0": (128, 18), "Q2_0": (64, 18)}  # weights, bytes; not in every gguf-py
KINDS = sorted(set(STORED) - {"F32", "F16", "BF16"})


def read_by_numpy(stored: np.ndarray, kind: str) -> np.ndarray:
    """Q1_0 and Q2_0 as ggml-common.h has them: an f16, then bits or pairs of bits."""
    blocks = stored.reshape(ROWS, -1, 18)
    scales = np.ascontiguousarray(blocks[:, :, :2]).view("<f2").astype(np.float32)
    levels = blocks[:, :, 2:, None]
    if kind == "Q1_0":
        found = (levels >> np.arange(8, dtype=np.uint8) & 1).astype(np.float32) * 2 - 1
    else:
        found = (levels >> np.arange(0, 8, 2, dtype=np.uint8) & 3).astype(np.float32) - 1
    return (found.reshape(ROWS, blocks.shape[1], -1) * scales).reshape(ROWS, -1)


def reference(stored: np.ndarray, kind: str) -> np.ndarray:
    if kind in BLOCKS:
        return read_by_numpy(stored, kind)
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[kind])


def random_rows(kind: str) -> np.ndarray:
    """Any bytes whose weights are finite."""
    rng = np.random.default_rng(sum(map(ord, kind)))
    weights, size = BLOCKS.get(kind) or gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    while True:
        # more than enough rows, of which the finite ones are taken
        found = rng.integers(0, 256, (40 * ROWS, COLUMNS // weights * size), np.uint8)
        kept = [row for row in found.reshape(40, ROWS, -1).transpose(1, 0, 2)]
        rows = []
        for choices in kept:
            with np.errstate(all="ignore"):
                values = np.concatenate([finite_of(row, kind) for row in choices])
            good = np.flatnonzero(values)
            if not good.size:
                break
            rows.append(choices[good[0]])
        if len(rows) == ROWS:
            return np.array(rows)


def finite_of(row: np.ndarray, kind: str) -> np.ndarray:
    """Whether a row's scales are finite, as the packer sees it: (1,)."""
    source, out = STORED[kind], np.empty(0, np.uint8)
    to = TYPES["tq2_0"] if kind == "TQ1_0" else source
    out = np.empty(_tiles.tensor_bytes(to, 1, 1, COLUMNS), np.uint8)
    return np.array([_tiles.pack(row[None], None, COLUMNS, source, to, 0, 1, 1, out) < 0])


@pytest.mark.parametrize("layout", [1, 4, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_taken_over_with_their_very_values(kind: str, layout: int) -> None:
    rows = random_rows(kind)
    tensor = SourceTensor("w", ROWS, COLUMNS, kind, rows, Path("model"))
    name = "tq2_0" if kind == "TQ1_0" else next(n for n in TYPES if n.upper() == kind)
    groups = np.concatenate(list(pack(tensor, name, layout)))
    assert groups.size == packed_bytes(name, layout, ROWS, COLUMNS)
    found = np.empty((ROWS, COLUMNS), np.float32)
    _tiles.unpack(groups, TYPES[name], layout, found)
    np.testing.assert_array_equal(found, reference(rows, kind))
    assert np.isfinite(found).all()
