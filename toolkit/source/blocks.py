"""Rows of a source file as numbers: the block types of ggml, by name, decoded by gguf-py.

Not the quantizer: nothing here writes blocks, and rows are only read.
gguf is imported where it is used, so that reading a vocabulary does not pay for it.
"""

from __future__ import annotations

import functools
from typing import cast

import numpy as np
import numpy.typing as npt

# Types whose blocks an image may take over unchanged.
COPIED = frozenset({"Q4_0", "Q8_0", "F16", "F32"})

# Weights decoded at a time: the temporaries of one step then stay in the cache.
STEP_WEIGHTS = 1 << 16
# gguf-py works on 16 rows of whatever it is given.
ROWS_PER_STEP = 16

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Types that gguf-py knows too little of: ggml's number, weights and bytes of a block, bits.
_BARE = {"Q1_0": (41, 128, 18, 1), "Q2_0": (42, 64, 18, 2)}


@functools.cache
def block_shape(source_type: str) -> tuple[int, int]:
    """(weights, bytes) of one block of a type that decode() knows; KeyError for any other."""
    import gguf
    from gguf.quants import dequantize

    if source_type in _BARE:
        return _BARE[source_type][1:3]
    kind = gguf.GGMLQuantizationType[source_type]
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    if source_type not in ("F64", "F32", "F16"):
        try:
            with np.errstate(all="ignore"):
                dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            raise KeyError(source_type) from None
    return weights, size


@functools.cache
def type_name(number: int) -> str:
    """ggml's name of a type; KeyError when gguf-py has never heard of the number."""
    import gguf

    for name, (known, *_) in _BARE.items():
        if number == known:
            return name
    try:
        return str(gguf.GGMLQuantizationType(number).name)
    except ValueError:
        raise KeyError(number) from None


def decode(stored: Bytes, source_type: str) -> Floats:
    """(rows, bytes of a row) to a new float32 array (rows, columns)."""
    weights, size = block_shape(source_type)
    rows = stored.shape[0]
    columns = stored.shape[1] // size * weights
    stored = np.ascontiguousarray(stored)
    if source_type == "F32":
        return stored.view(np.float32).copy()
    if source_type == "F64":
        with np.errstate(over="ignore"):  # what float32 cannot hold is found by the caller
            return stored.view(np.float64).astype(np.float32)
    if source_type == "F16":
        return stored.view(np.float16).astype(np.float32)
    if source_type == "BF16":
        return (stored.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    if source_type in _BARE:
        return _decode_bare(stored.reshape(-1, size), _BARE[source_type][3]).reshape(
            rows, columns
        )
    return _decode_blocks(stored, source_type).reshape(rows, columns)


def _decode_bare(blocks: Bytes, bits: int) -> Floats:
    """An f16 and levels of 1 or 2 bits, the first in the lowest (ggml-common.h, block_q1_0,
    block_q2_0): d * (2 q - 1), d * (q - 1)."""
    scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    levels = (blocks[:, 2:, None] >> shifts & ((1 << bits) - 1)).reshape(len(blocks), -1)
    with np.errstate(all="ignore"):
        found = (levels.astype(np.float32) * (3 - bits) - 1) * scales
    return cast(Floats, found)


def _decode_blocks(stored: Bytes, source_type: str) -> Floats:
    import gguf
    from gguf.quants import dequantize

    weights, size = block_shape(source_type)
    kind = gguf.GGMLQuantizationType[source_type]
    flat = stored.reshape(-1)
    values = np.empty(flat.size // size * weights, np.float32)
    # Blocks stand alone, so rows may be cut elsewhere than the matrix cuts them.
    row_bytes = max(1, STEP_WEIGHTS // ROWS_PER_STEP // weights) * size
    whole = flat.size // row_bytes * row_bytes
    with np.errstate(all="ignore"):  # a damaged scale: the caller looks for it
        if whole:
            decoded = dequantize(flat[:whole].reshape(-1, row_bytes), kind).reshape(-1)
            if whole == flat.size:
                return cast(Floats, decoded)
            values[: decoded.size] = decoded
        tail = dequantize(flat[whole:].reshape(1, -1), kind).reshape(-1)
    values[values.size - tail.size :] = tail
    return values


def finite_rows(stored: Bytes, source_type: str) -> npt.NDArray[np.bool_]:
    """For each row of a COPIED type, whether its scales (or weights) are all finite."""
    if source_type == "F32":
        high = stored.view(np.uint32)
        finite = (high & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
        return cast(npt.NDArray[np.bool_], finite.all(axis=1))
    if source_type == "F16":
        high_bytes = stored[:, 1::2]
    else:
        high_bytes = stored[:, 1 :: block_shape(source_type)[1]]
    finite = (high_bytes & np.uint8(0x7C)) != np.uint8(0x7C)
    return cast(npt.NDArray[np.bool_], finite.all(axis=1))
