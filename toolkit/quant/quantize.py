"""Quantizes a source tensor into the bytes that the engine reads (SPEC 2.4 and 3.5).

A source of the very type that is asked for is taken over block by block; anything else is
quantized by search.c, or, on demand, by ggml's plain rounding. Rows come in groups as the
board's kernels want them, on all of the machine's cores.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from qedge.runtime._engine import TYPES
from qedge.runtime.errors import ImageError, UsageError
from qedge.runtime.machine import cpus
from qedge.toolkit.quant import _tiles as tiles
from qedge.toolkit.quant import search
from qedge.toolkit.quant.spread import Correlations, Spread
from qedge.toolkit.source.model import Bytes, SourceTensor

SEARCH, GGML = "search", "ggml"  # ways to round
BLOCK = 32  # columns of a block; rows are padded to whole ones
PLAIN = ("f32", "f16", "bf16")  # types whose rows are never interleaved
_NUMPY = {"f32": "<f4", "f16": "<f2"}
_VALUES_AT_ONCE = 1 << 21  # 8 MiB of float32
# The largest weight in units of the largest f16, which scales and minima are.
_REACH = {"q4_0": 7, "q5_0": 15, "q8_0": 127, "iq4_nl": 113, "q4_1": 1, "q5_1": 1}
_REACH |= {"q2_K": 15, "q3_K": 93, "q4_K": 63, "q5_K": 63, "q6_K": 3937}

# GGML's numbers of the types that a source may have, by the names of gguf-py.
STORED = {name.upper(): number for name, number in TYPES.items() if number < 256}
STORED["TQ1_0"] = tiles.TQ1_0


def layout_for(kind: str, board_rows: int) -> int:
    """How many rows of a type are interleaved for a board that wants so many."""
    return 1 if kind in PLAIN else board_rows


def packed_bytes(kind: str, layout: int, rows: int, columns: int) -> int:
    """Bytes of a tensor in the image.

    UsageError when rows of so many columns cannot have the type."""
    found = tiles.tensor_bytes(TYPES[kind], layout, rows, columns)
    if not found:
        raise UsageError(
            f"rows of {columns} weights are not whole blocks of {kind}; take another type"
        )
    return found


def is_searched(tensor: SourceTensor, kind: str) -> bool:
    """Whether the tensor is quantized by search.c, and not taken over or rounded."""
    return kind in search.KINDS and not _is_kept(tensor, kind)


def pack(
    tensor: SourceTensor,
    kind: str,
    layout: int,
    importance: npt.NDArray[np.float32] | None = None,
    rounding: str = SEARCH,
    correlations: Correlations | None = None,
) -> Iterator[Bytes]:
    """The tensor's bytes in the image, a few rows at a time (uint8 arrays, C order).

    importance    of the columns, or None: all count the same
    rounding      SEARCH, or GGML for q4_0 and q8_0 as ggml's reference makes them
    correlations  of the columns, with importance: errors are made good in later columns

    ImageError when a weight is not finite, UsageError for an unknown type."""
    if kind not in TYPES:
        raise UsageError(f"unknown type {kind}; known are {', '.join(TYPES)}")
    step = max(1, _VALUES_AT_ONCE // max(1, tensor.columns) // layout) * layout
    spans = [(at, min(at + step, tensor.rows)) for at in range(0, tensor.rows, step)]
    part = _floats if kind in PLAIN else _rounded
    if rounding == SEARCH and is_searched(tensor, kind):
        spread = None
        if importance is not None and correlations is not None and search.can_spread(kind):
            spread = Spread.of(importance, correlations)
        part = partial(_searched, importance, spread)
    at_once = cpus()
    with ThreadPoolExecutor(at_once) as pool:
        ahead: deque[Future[Bytes]] = deque()
        try:
            for start, stop in spans:
                ahead.append(pool.submit(part, tensor, kind, layout, start, stop))
                if len(ahead) > at_once:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # after an error, or when the caller has had enough
            for job in ahead:
                job.cancel()


def _floats(tensor: SourceTensor, kind: str, layout: int, start: int, stop: int) -> Bytes:
    if tensor.source_type.lower() == kind and tensor.columns % BLOCK == 0:
        raw = tensor.raw(start, stop)
        if raw is not None:
            return np.frombuffer(raw, np.uint8).copy()
    values = tensor.read(start, stop)
    missing = -tensor.columns % BLOCK
    values = np.pad(values, ((0, 0), (0, missing))) if missing else values
    if kind == "bf16":
        return _to_bf16(values)
    with np.errstate(over="ignore"):
        return values.astype(_NUMPY[kind]).reshape(-1).view(np.uint8)


def _to_bf16(values: np.ndarray) -> Bytes:
    """To the nearest, ties to even."""
    bits = values.view(np.uint32)
    rounded = (
        bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    ) >> np.uint32(16)
    return rounded.astype("<u2").reshape(-1).view(np.uint8)


def _is_kept(tensor: SourceTensor, kind: str) -> bool:
    source = STORED.get(tensor.source_type)
    plain = tensor.source_type in ("F32", "F16", "BF16")
    return (
        source is not None
        and not plain
        and tiles.takes(source, TYPES[kind])
        and tiles.row_bytes(source, tensor.columns) > 0
    )


def _searched(
    importance: npt.NDArray[np.float32] | None,
    spread: Spread | None,
    tensor: SourceTensor,
    kind: str,
    layout: int,
    start: int,
    stop: int,
) -> Bytes:
    columns, rows, to = tensor.columns, stop - start, TYPES[kind]
    out = np.empty(packed_bytes(kind, layout, rows, columns), np.uint8)
    values = tensor.read(start, stop)
    most = 65504.0 * _REACH.get(kind, math.inf)
    if max(values.max(), -values.min()) > most:
        raise ImageError(
            f"{tensor.path}: {tensor.name} holds weights above {most:,.0f}, which no scale of "
            f"{kind} reaches; take a4 or f32"
        )
    stored = search.quantize_rows(values, kind, importance, spread)
    padded = columns if kind.endswith("_K") else -(-columns // BLOCK) * BLOCK
    tiles.pack(stored, None, padded, to, to, 0, rows, layout, out)
    return out


def _rounded(tensor: SourceTensor, kind: str, layout: int, start: int, stop: int) -> Bytes:
    out = np.empty(packed_bytes(kind, layout, stop - start, tensor.columns), np.uint8)
    source, to = STORED.get(tensor.source_type, -1), TYPES[kind]
    columns, rows = tensor.columns, stop - start
    if not (_is_kept(tensor, kind) or tiles.takes(TYPES["f32"], to)):
        raise UsageError(f"{kind} is not made here by ggml's rounding; it is searched")
    if source >= 0 and tiles.takes(source, to) and tiles.row_bytes(source, columns):
        stored = tensor.stored_rows(start, stop)
        refused = tiles.pack(stored, None, columns, source, to, 0, rows, layout, out)
        if refused >= 0:
            tensor.refuse_weight(start + refused)
    else:
        values = tensor.read(start, stop).view(np.uint8)
        tiles.pack(values, None, columns, TYPES["f32"], to, 0, rows, layout, out)
    return out
