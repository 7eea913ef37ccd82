# cython: language_level=3, boundscheck=False
"""Binds rows.c, without the interpreter's lock."""

from libc.stdint cimport int32_t, uint32_t

cdef extern from "rows.h" nogil:
    enum:
        QR_COLUMNS
    void qr_compare(const float *, const float *, size_t, uint32_t, const int32_t *, size_t,
                    size_t, double *)

COLUMNS = QR_COLUMNS


def compare(const float[:, ::1] base, const float[:, ::1] other not None, uint32_t size,
            const int32_t[::1] target not None, size_t first, size_t stop,
            double[:, ::1] out not None):
    """What rows first to stop of two models' logits say; see rows.h. base may be None."""
    cdef size_t rows = other.shape[0], stride = other.shape[1]
    if not (1 <= size <= stride and first <= stop <= rows):
        raise ValueError(f"rows {first}:{stop} of {rows}, {size} of {stride} columns")
    if base is not None and (base.shape[0] < <Py_ssize_t>stop or base.shape[1] != <Py_ssize_t>stride):
        raise ValueError("base and other differ in shape")
    if out.shape[0] < <Py_ssize_t>stop or out.shape[1] != QR_COLUMNS:
        raise ValueError(f"out has no room for {stop} rows of {QR_COLUMNS}")
    if target.shape[0] < <Py_ssize_t>stop:
        raise ValueError(f"{target.shape[0]} targets for {stop} rows")
    for row in range(first, stop):
        if not 0 <= target[row] < <int32_t>size:
            raise ValueError(f"target {target[row]} of {size}")
    if first == stop:
        return
    cdef const float *a = NULL if base is None else &base[0, 0]
    with nogil:
        qr_compare(a, &other[0, 0], stride, size, &target[0], first, stop, &out[0, 0])
