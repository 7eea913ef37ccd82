# cython: language_level=3, boundscheck=False
"""Binds search.c: rows of weights to stored rows and back, without the interpreter's lock."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc

cdef extern from "search.h" nogil:
    ctypedef enum qs_kind:
        pass
    uint32_t qs_block(qs_kind)
    size_t qs_row_bytes(qs_kind, uint32_t)
    size_t qs_work_bytes(qs_kind, uint32_t)
    int64_t qs_quantize(qs_kind, const float *, uint32_t, uint32_t, const float *, void *, uint8_t *)
    void qs_dequantize(qs_kind, const uint8_t *, uint32_t, uint32_t, float *)

_NAMES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "q2_K", "q3_K", "q4_K", "q5_K",
          "q6_K", "a3", "a4", "a5", "a6")
KINDS = {name: kind for kind, name in enumerate(_NAMES)}  # as qs_kind has them


def block(str kind):
    """Columns of a block."""
    return qs_block(<qs_kind><int>KINDS[kind])


def row_bytes(str kind, uint32_t columns):
    """Bytes of a stored row."""
    return qs_row_bytes(<qs_kind><int>KINDS[kind], columns)


def quantize(str kind, const float[:, ::1] values not None, const float[::1] importance,
             uint8_t[:, ::1] out not None):
    """values (rows, columns) to out (rows, row_bytes); importance (columns), finite and not
    below 0, or None.  Returns the lowest row with a weight that is not finite, or -1."""
    cdef qs_kind to = <qs_kind><int>KINDS[kind]
    cdef uint32_t rows = values.shape[0], columns = values.shape[1]
    cdef const float *weights = NULL
    cdef size_t need = qs_work_bytes(to, columns)
    cdef void *work
    cdef int64_t refused
    if importance is not None and importance.shape[0] != values.shape[1]:
        raise ValueError(f"importance of {importance.shape[0]} columns for {columns}")
    if out.shape[0] != values.shape[0] or <size_t>out.shape[1] != qs_row_bytes(to, columns):
        raise ValueError(f"{out.shape[0]} rows of {out.shape[1]} bytes for {rows} of {columns}")
    if rows == 0 or columns == 0:
        return -1
    if importance is not None:
        weights = &importance[0]
    work = malloc(need + 1)
    if work is NULL:
        raise MemoryError(f"{need} bytes to search rows of {columns}")
    with nogil:
        refused = qs_quantize(to, &values[0, 0], rows, columns, weights, work, &out[0, 0])
    free(work)
    return refused


def dequantize(str kind, const uint8_t[:, ::1] stored not None, float[:, ::1] values not None):
    """stored (rows, row_bytes) to values (rows, columns)."""
    cdef qs_kind source = <qs_kind><int>KINDS[kind]
    cdef uint32_t rows = values.shape[0], columns = values.shape[1]
    if stored.shape[0] != rows or <size_t>stored.shape[1] != qs_row_bytes(source, columns):
        raise ValueError(f"{stored.shape[0]} rows of {stored.shape[1]} bytes for {rows} of {columns}")
    if rows and columns:
        with nogil:
            qs_dequantize(source, &stored[0, 0], rows, columns, &values[0, 0])
