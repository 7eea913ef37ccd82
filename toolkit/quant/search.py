"""Rows of weights to the stored rows of a format, scales searched for the least error.

The error is sum_j A_j (w_j - stored_j)^2; A, the importance, is the mean square of what a
matrix is multiplied with, a column; with a Spread, correlations of columns count as well, and
errors are made good in later columns.  search.c does the work and lets go of the interpreter's
lock: callers spread rows over threads, and bytes do not depend on how.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qedge.runtime.errors import ImageError, UsageError
from qedge.toolkit.quant import _search
from qedge.toolkit.quant.spread import Spread

KINDS: tuple[str, ...] = tuple(_search.KINDS)


def block_columns(kind: str) -> int:
    """Columns of a block: 32, or 256 of the K types.  UsageError for an unknown kind."""
    return _search.block(_known(kind))


def stored_bytes(kind: str, columns: int) -> int:
    """Bytes of a stored row; a last block that is not full counts as one."""
    return _search.row_bytes(_known(kind), columns)


def can_spread(kind: str) -> bool:
    """Whether errors of a kind are made good in later columns: not in q8_0 and iq4_nl."""
    return _search.can_spread(_known(kind))


def quantize_rows(
    values: npt.NDArray[np.float32],
    kind: str,
    importance: npt.NDArray[np.float32] | None,
    spread: Spread | None = None,
) -> npt.NDArray[np.uint8]:
    """values (rows, columns) to uint8 (rows, stored_bytes).

    importance: (columns), at least 0, or None: all the same.  spread: of the columns, instead
    of importance; for kinds that can_spread.  UsageError for an importance of another length or
    sign or an unknown kind, ImageError for a weight that is not finite (its row counts from the
    first of values)."""
    out = np.empty((values.shape[0], stored_bytes(kind, values.shape[1])), np.uint8)
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
        if importance.shape != values.shape[1:]:
            raise UsageError(
                f"importance has shape {importance.shape}, the rows have {values.shape[1]}"
                " columns; give one number a column"
            )
        if not (np.isfinite(importance).all() and (importance >= 0).all()):
            raise UsageError(
                "importance has numbers that are negative or not finite; give mean squares"
            )
    values = np.ascontiguousarray(values, np.float32)
    if spread is None:
        refused = _search.quantize(kind, values, importance, out)
    else:
        refused = _search.quantize_spread(
            kind, values, spread.piece, spread.factors, spread.weights, out
        )
    if refused >= 0:
        raise ImageError(
            f"row {refused} has a weight that is not finite; the source file is damaged or"
            " was saved badly: fetch or convert it again"
        )
    return out


def dequantize_rows(
    stored: npt.NDArray[np.uint8], kind: str, columns: int
) -> npt.NDArray[np.float32]:
    """stored (rows, stored_bytes) to float32 (rows, columns)."""
    if stored.shape[1] != stored_bytes(kind, columns):
        raise UsageError(
            f"{kind} has {stored_bytes(kind, columns)} bytes in a row of {columns} columns,"
            f" not {stored.shape[1]}; give whole stored rows"
        )
    values = np.empty((stored.shape[0], columns), np.float32)
    _search.dequantize(kind, np.ascontiguousarray(stored), values)
    return values


def _known(kind: str) -> str:
    if kind not in _search.KINDS:
        raise UsageError(f"unknown kind {kind}; known are {', '.join(KINDS)}")
    return kind
