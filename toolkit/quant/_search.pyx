# cython: language_level=3, boundscheck=False
"""Binds search.c and search_spread.c: rows of weights to stored rows and back, without the
interpreter's lock."""

from libc.stdint cimport int8_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc

cdef extern from "search.h" nogil:
    ctypedef enum qs_kind:
        pass
    uint32_t qs_block(qs_kind)
    size_t qs_row_bytes(qs_kind, uint32_t)
    size_t qs_work_bytes(qs_kind, uint32_t)
    int64_t qs_quantize(qs_kind, const float *, uint32_t, uint32_t, const float *, void *, uint8_t *)
    void qs_dequantize(qs_kind, const uint8_t *, uint32_t, uint32_t, float *)

cdef extern from "search_spread.h" nogil:
    ctypedef struct qs_spread:
        const float *factors
        const float *weights
        uint32_t piece
    size_t qs_triangle(uint32_t)
    void qs_add_products(const float *, uint32_t, size_t, uint32_t, float *)
    void qs_factor(const int8_t *, const float *, uint32_t, float, float *, float *)
    int qs_can_spread(qs_kind)
    size_t qs_spread_work_bytes(qs_kind, uint32_t, uint32_t)
    int64_t qs_quantize_spread(qs_kind, const float *, uint32_t, uint32_t, const qs_spread *, void *, uint8_t *)

_NAMES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "q2_K", "q3_K", "q4_K", "q5_K",
          "q6_K", "a2", "a3", "a4", "a5", "a6")
KINDS = {name: kind for kind, name in enumerate(_NAMES)}  # as qs_kind has them


def block(str kind):
    """Columns of a block."""
    return qs_block(<qs_kind><int>KINDS[kind])


def row_bytes(str kind, uint32_t columns):
    """Bytes of a stored row."""
    return qs_row_bytes(<qs_kind><int>KINDS[kind], columns)


def can_spread(str kind):
    """Whether quantize_spread takes the kind."""
    return bool(qs_can_spread(<qs_kind><int>KINDS[kind]))


def triangle(uint32_t columns):
    """Numbers of a lower triangle of so many columns, a multiple of 32."""
    if columns % 32:
        raise ValueError(f"{columns} columns are not whole blocks of 32")
    return qs_triangle(columns)


def add_products(const float[:, ::1] x not None, uint32_t first, float[::1] sums not None):
    """Adds the products of columns from `first` on of x (tokens, columns) to sums, the triangle
    of as many columns as it is large for."""
    cdef uint32_t columns = 32, wide = x.shape[1]
    cdef size_t size = sums.shape[0]
    while qs_triangle(columns) < size:
        columns += 32
    if qs_triangle(columns) != size or <size_t>first + columns > wide:
        raise ValueError(f"sums of {size} numbers for {wide} columns from {first} on")
    if x.shape[0]:
        with nogil:
            qs_add_products(&x[0, first], x.shape[0], wide, columns, &sums[0])


def factor(const int8_t[::1] correlations not None, const float[::1] roots not None,
           float kept, float[::1] factors not None, float[::1] weights not None):
    """One piece's correlations, in parts of 127, and roots (columns) of its mean squares to
    factors, as long as correlations, and weights (columns)."""
    cdef uint32_t columns = roots.shape[0]
    cdef size_t size = triangle(columns)
    if not (<size_t>correlations.shape[0] == <size_t>factors.shape[0] == size) or weights.shape[0] != columns:
        raise ValueError(f"{columns} columns have triangles of {size}")
    if not 0 <= kept < 1:
        raise ValueError(f"a share of {kept} of the correlations")
    if columns:
        with nogil:
            qs_factor(&correlations[0], &roots[0], columns, kept, &factors[0], &weights[0])


def quantize_spread(str kind, const float[:, ::1] values not None, uint32_t piece,
                    const float[::1] factors not None, const float[::1] weights not None,
                    uint8_t[:, ::1] out not None):
    """values (rows, columns) to out (rows, row_bytes), errors made good by the factors of pieces
    of so many columns. Returns the lowest row with a weight that is not finite, or -1."""
    cdef qs_kind to = <qs_kind><int>KINDS[kind]
    cdef uint32_t rows = values.shape[0], columns = values.shape[1], last
    cdef qs_spread spread
    cdef size_t need, size
    cdef void *work
    cdef int64_t refused
    if not qs_can_spread(to) or piece == 0 or piece % qs_block(to):
        raise ValueError(f"{kind} is not compensated in pieces of {piece}")
    last = (columns % piece + 31) // 32 * 32
    size = columns // piece * qs_triangle(piece) + qs_triangle(last)
    if <size_t>factors.shape[0] != size or <size_t>weights.shape[0] < columns:
        raise ValueError(f"{columns} columns in pieces of {piece} have {size} factors")
    if out.shape[0] != values.shape[0] or <size_t>out.shape[1] != qs_row_bytes(to, columns):
        raise ValueError(f"{out.shape[0]} rows of {out.shape[1]} bytes for {rows} of {columns}")
    if rows == 0 or columns == 0:
        return -1
    need = qs_spread_work_bytes(to, columns, piece)
    work = malloc(need)
    if work is NULL:
        raise MemoryError(f"{need} bytes to search rows of {columns}")
    spread.factors, spread.weights, spread.piece = &factors[0], &weights[0], piece
    with nogil:
        refused = qs_quantize_spread(to, &values[0, 0], rows, columns, &spread, work, &out[0, 0])
    free(work)
    return refused


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
