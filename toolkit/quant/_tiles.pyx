# cython: language_level=3, boundscheck=False
"""Binds tiles.c: source rows to the groups of rows of an image, without the interpreter's
lock."""

from libc.stdint cimport int64_t, intptr_t, uint8_t, uint32_t

cdef extern from "tiles.h" nogil:
    ctypedef struct qt_source:
        const uint8_t *bytes
        Py_ssize_t stride
        const intptr_t *order
        uint32_t rows, columns, type
    enum: QT_TQ1_0
    size_t qt_row_bytes(uint32_t, uint32_t)
    int qt_takes(uint32_t, uint32_t)
    int64_t qt_pack(const qt_source *, uint32_t, uint32_t, uint32_t, uint32_t, uint8_t *)
    void qt_unpack(const uint8_t *, uint32_t, uint32_t, uint32_t, uint32_t, float *)
    unsigned long long qe_tensor_bytes(uint32_t, uint32_t, uint32_t, uint32_t)

TQ1_0 = QT_TQ1_0


def takes(uint32_t source, uint32_t target):
    """Whether rows of one type can become groups of another without more than this packer."""
    return bool(qt_takes(source, target))


def row_bytes(uint32_t kind, uint32_t columns):
    """Bytes of a stored row; 0 for columns that are not whole blocks of the type."""
    return qt_row_bytes(kind, columns)


def tensor_bytes(uint32_t kind, uint32_t layout, uint32_t rows, uint32_t columns):
    """Bytes of a tensor in the image; 0 when rows of so many columns cannot have the type."""
    return qe_tensor_bytes(kind, layout, rows, columns)


def pack(const uint8_t[:, :] stored not None, const intptr_t[::1] order, uint32_t columns,
         uint32_t source, uint32_t target, uint32_t first, uint32_t stop, uint32_t layout,
         uint8_t[::1] out not None):
    """Groups of `layout` rows each, of rows first to stop of a tensor, to out.

    stored: (stored rows, bytes of a row) as the file has them, a row's bytes in sequence; order:
    the stored row of each row, or None; source, target: numbers of types.  Returns the lowest
    row with a weight that is not finite, or -1.  Row order entries are trusted.
    """
    cdef qt_source s
    cdef int64_t refused
    cdef Py_ssize_t height = stored.shape[0] if order is None else order.shape[0]
    if not qt_takes(source, target):
        raise ValueError(f"no way from type {source} to {target}")
    if layout not in (1, 4, 16) or first % layout:
        raise ValueError(f"rows from {first} in groups of {layout}")
    if not first < stop <= height or stored.strides[1] != 1:
        raise ValueError(f"rows {first}:{stop} of {height}")
    if not 0 < qt_row_bytes(source, columns) <= <size_t>stored.shape[1]:
        raise ValueError(f"{columns} columns in rows of {stored.shape[1]} bytes")
    if <unsigned long long>out.shape[0] != qe_tensor_bytes(target, layout, stop - first, columns):
        raise ValueError(f"{out.shape[0]} bytes for rows {first}:{stop}")
    s.type = source
    s.bytes, s.stride = &stored[0, 0], stored.strides[0]
    s.order = NULL if order is None else &order[0]
    s.rows, s.columns = stop, columns
    with nogil:
        refused = qt_pack(&s, first, stop, target, layout, &out[0])
    return refused


def unpack(const uint8_t[::1] groups not None, uint32_t kind, uint32_t layout,
           float[:, ::1] out not None):
    """The weights of groups of rows as the engine's embedding reads them, to out (rows,
    columns)."""
    cdef uint32_t rows = <uint32_t>out.shape[0], columns = <uint32_t>out.shape[1]
    if not 0 < qe_tensor_bytes(kind, layout, rows, columns) == <size_t>groups.shape[0] or kind < 2:
        raise ValueError(f"{groups.shape[0]} bytes for {rows} rows of {columns}")
    with nogil:
        qt_unpack(&groups[0], kind, layout, rows, columns, &out[0, 0])
