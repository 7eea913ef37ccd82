"""Error compensation: what rounding does to a column is made good in those rounded after it, by
the correlations of the columns' inputs (GPTQ, Frantar and others 2022, arXiv:2210.17323).

Correlations are those within pieces of columns, as int16 parts of 32767, in lower triangles
that search_spread.h describes; those between pieces count as none, and half of what was
measured is believed, since a few thousand tokens tell little of some hundred thousand pairs.
search_spread.c does the work and lets go of the interpreter's lock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qedge.runtime.errors import UsageError
from qedge.toolkit.quant import _search

Floats = npt.NDArray[np.float32]
Correlations = npt.NDArray[np.int16]

KEPT = 0.5  # of a correlation: the least error on other texts, of 0.3 to 0.9
_WIDEST = 1024  # columns of a piece
_BLOCK = 32
_WHOLE = 32767.0


def piece_columns(columns: int) -> int:
    """Columns of a piece: whole blocks of every kind."""
    pieces = -(-columns // _WIDEST)
    return -(-columns // pieces // 256) * 256


def pieces_of(columns: int) -> list[tuple[int, int]]:
    """(first column, columns up to whole blocks) of each piece."""
    piece = piece_columns(columns)
    return [
        (at, -(-min(piece, columns - at) // _BLOCK) * _BLOCK)
        for at in range(0, columns, piece)
    ]


def triangle_numbers(columns: int) -> int:
    """Numbers in the triangles of a row of so many columns."""
    return sum(_search.triangle(wide) for _, wide in pieces_of(columns))


class Products:
    """Sums of the products of a matrix's inputs, one piece's columns with each other."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._sums = [
            (at, np.zeros(_search.triangle(wide), np.float32))
            for at, wide in pieces_of(columns)
        ]

    def add(self, inputs: Floats) -> None:
        """inputs (tokens, columns). The sums depend on how tokens are put together in calls."""
        missing = -self._columns % _BLOCK
        if missing:
            inputs = np.pad(inputs, ((0, 0), (0, missing)))
        for at, sums in self._sums:
            _search.add_products(np.ascontiguousarray(inputs), at, sums)

    def correlations(self) -> Correlations:
        """int16 (triangle_numbers): products of columns over the roots of their squares."""
        found = []
        for (_, sums), (_, wide) in zip(self._sums, pieces_of(self._columns)):
            squares = np.concatenate(
                [np.diagonal(band[:, at:]) for at, band in _bands(sums, wide)]
            )
            with np.errstate(divide="ignore"):
                inverse = np.where(squares > 0, 1 / np.sqrt(squares), 0).astype(np.float32)
            parts = [
                band * inverse[at : at + _BLOCK, None] * inverse[: at + _BLOCK]
                for at, band in _bands(sums, wide)
            ]
            whole = np.concatenate([part.reshape(-1) for part in parts])
            np.nan_to_num(whole, copy=False, nan=0, posinf=0, neginf=0)
            found.append(np.rint(np.clip(whole, -1, 1) * np.float32(_WHOLE)).astype(np.int16))
        return np.concatenate(found)


def _bands(triangle: Floats, columns: int) -> list[tuple[int, Floats]]:
    """(first row, (32, columns up to its last row)) of each band of a triangle."""
    return [
        (at, triangle[_search.triangle(at) : _search.triangle(at + _BLOCK)].reshape(_BLOCK, -1))
        for at in range(0, columns, _BLOCK)
    ]


@dataclass(frozen=True, slots=True)
class Spread:
    """What rows of a matrix are compensated by."""

    piece: int
    factors: Floats
    weights: Floats

    @classmethod
    def of(cls, importance: Floats, correlations: Correlations) -> Spread:
        """importance (columns): mean squares. UsageError for another length."""
        columns = len(importance)
        if len(correlations) != triangle_numbers(columns):
            raise UsageError(
                f"{len(correlations)} correlations do not belong to {columns} columns; give"
                f" {triangle_numbers(columns)}"
            )
        missing = -columns % _BLOCK
        roots = np.sqrt(np.pad(importance.astype(np.float32), (0, missing)))
        factors = np.empty(len(correlations), np.float32)
        weights = np.empty(columns + missing, np.float32)
        done = 0
        for at, wide in pieces_of(columns):
            stop = done + _search.triangle(wide)
            _search.factor(
                correlations[done:stop],
                roots[at : at + wide],
                KEPT,
                factors[done:stop],
                weights[at : at + wide],
            )
            done = stop
        return cls(piece_columns(columns), factors, weights)
