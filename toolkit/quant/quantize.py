"""Quantizes a source tensor into the bytes that the engine reads (SPEC 2.4 and 3.5).

gguf's numpy quantizers are the definition of q4_0 and q8_0; tiles.c makes their very bytes, in
tiles as the board's kernels want them, on all of the machine's cores.  A source of the very
type that is asked for is taken over block by block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from qedge.runtime._engine import TYPES
from qedge.runtime.errors import UsageError
from qedge.runtime.machine import cpus
from qedge.toolkit.board import Layout
from qedge.toolkit.quant import _tiles as tiles
from qedge.toolkit.source.model import Bytes, SourceTensor

BLOCK = 32  # columns of a block; rows are padded to whole ones
_BLOCK_BYTES = {"f32": 128, "f16": 64, "q4_0": 18, "q8_0": 34}
_FLOATS = ("F32", "F16", "BF16")  # that tiles.c reads as they lie
_VALUES_AT_ONCE = 1 << 21  # 8 MiB of float32


PLAIN = Layout(1, 1)


def layout_for(kind: str, board_layout: Layout) -> Layout:
    """f16 and f32 rows are never interleaved."""
    return board_layout if kind in ("q4_0", "q8_0") else PLAIN


def packed_bytes(kind: str, layout: Layout, rows: int, columns: int) -> int:
    """Bytes of a tensor in the image."""
    padded = -(-rows // layout.rows) * layout.rows
    return padded * (-(-columns // BLOCK)) * _BLOCK_BYTES[kind]


def pack(tensor: SourceTensor, kind: str, layout: Layout) -> Iterator[Bytes]:
    """The tensor's bytes in the image, a few rows at a time (uint8 arrays, C order).

    ImageError when a weight is not finite, UsageError for an unknown type."""
    if kind not in TYPES:
        raise UsageError(f"unknown type {kind}; known are {', '.join(TYPES)}")
    step = max(1, _VALUES_AT_ONCE // max(1, tensor.columns) // layout.rows) * layout.rows
    spans = [(at, min(at + step, tensor.rows)) for at in range(0, tensor.rows, step)]
    part = _floats if kind in ("f32", "f16") else _tiles
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


def _floats(tensor: SourceTensor, kind: str, layout: Layout, start: int, stop: int) -> Bytes:
    raw = None
    if tensor.source_type.lower() == kind and tensor.columns % BLOCK == 0:
        raw = tensor.raw(start, stop)
    if raw is not None:
        found = np.frombuffer(raw, np.uint8).copy()
    else:
        values = tensor.read(start, stop)
        missing = -tensor.columns % BLOCK
        values = np.pad(values, ((0, 0), (0, missing))) if missing else values
        with np.errstate(over="ignore"):
            found = values.astype("<f4" if kind == "f32" else "<f2").reshape(-1).view(np.uint8)
    return found


def _tiles(tensor: SourceTensor, kind: str, layout: Layout, start: int, stop: int) -> Bytes:
    out = np.empty(packed_bytes(kind, layout, stop - start, tensor.columns), np.uint8)
    to, source = kind.upper(), tensor.source_type
    shape = layout.rows, layout.group, out
    if source in _FLOATS or (source == to and tensor.columns % BLOCK == 0):
        stored = tensor.stored_rows(start, stop)
        refused = tiles.pack(stored, None, tensor.columns, source, to, 0, stop - start, *shape)
        if refused >= 0:
            tensor.refuse_weight(start + refused)
    else:
        values = tensor.read(start, stop).view(np.uint8)
        tiles.pack(values, None, tensor.columns, "F32", to, 0, stop - start, *shape)
    return out
