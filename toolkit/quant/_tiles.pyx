# cython: language_level=3, boundscheck=False
"""Binds tiles.c: source rows to the tiles of an image, without the interpreter's lock."""

from libc.stdint cimport int64_t, intptr_t, uint8_t, uint32_t

cdef extern from "tiles.h" nogil:
    ctypedef enum qt_type:
        pass
    ctypedef struct qt_source:
        const uint8_t *bytes
        Py_ssize_t stride
        const intptr_t *order
        uint32_t rows, columns
        qt_type type
    size_t qt_tile_bytes(qt_type, uint32_t)
    int64_t qt_pack(const qt_source *, uint32_t, uint32_t, qt_type, uint32_t, uint32_t, uint8_t *)

TYPES = {"F32": 0, "F16": 1, "BF16": 2, "Q4_0": 3, "Q8_0": 4}  # as qt_type has them
_BLOCK_BYTES = {"F32": 128, "F16": 64, "BF16": 64, "Q4_0": 18, "Q8_0": 34}


def pack(const uint8_t[:, :] stored not None, const intptr_t[::1] order, uint32_t columns,
         str source, str target, uint32_t first, uint32_t stop, uint32_t rows, uint32_t group,
         uint8_t[::1] out not None):
    """Tiles of `rows` rows each, of rows first to stop of a tensor, to out.

    stored: (stored rows, bytes of a row) as the file has them, a row's bytes in sequence; order:
    the stored row of each row, or None; source: a key of TYPES; target: Q4_0 or Q8_0.  Returns
    the lowest row with a weight that is not finite, or -1.  Row order entries are trusted.
    """
    cdef qt_source s
    cdef qt_type to = TYPES[target]
    cdef int64_t refused
    cdef Py_ssize_t height = stored.shape[0] if order is None else order.shape[0]
    cdef Py_ssize_t blocks = (<Py_ssize_t>columns + 31) // 32
    cdef Py_ssize_t tiles
    s.type = TYPES[source]
    if target not in ("Q4_0", "Q8_0") or (source in ("Q4_0", "Q8_0") and source != target):
        raise ValueError(f"no way from {source} to {target}")
    if not 1 <= rows <= 64 or group not in (1, 2, 4, 8, 16) or first % rows:
        raise ValueError(f"rows from {first} in tiles of {rows}, groups of {group}")
    if not first < stop <= height or stored.strides[1] != 1:
        raise ValueError(f"rows {first}:{stop} of {height}")
    if source in ("Q4_0", "Q8_0") and columns % 32:
        raise ValueError(f"{columns} columns are not whole blocks")
    if stored.shape[1] * 32 < <Py_ssize_t>columns * <Py_ssize_t>_BLOCK_BYTES[source]:
        raise ValueError(f"{columns} columns in rows of {stored.shape[1]} bytes")
    tiles = (<Py_ssize_t>(stop - first) + rows - 1) // rows
    if out.shape[0] != tiles * blocks * <Py_ssize_t>qt_tile_bytes(to, rows):
        raise ValueError(f"{out.shape[0]} bytes for {tiles} rows of tiles")
    s.bytes, s.stride = &stored[0, 0], stored.strides[0]
    s.order = NULL if order is None else &order[0]
    s.rows, s.columns = stop, columns
    with nogil:
        refused = qt_pack(&s, first, stop, to, rows, group, &out[0])
    return refused
