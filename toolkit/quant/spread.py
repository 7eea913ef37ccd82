"""Error compensation: what rounding does to a column is made good in those rounded after it, by
the correlations of what the columns are multiplied with (GPTQ, Frantar and others 2022,
arXiv:2210.17323).

Correlations are those within pieces of columns; between pieces they count as none. Half of what
was measured is believed, since some thousand tokens tell little of some million pairs.
search_spread.c does the work and lets go of the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qedge.runtime.errors import UsageError
from qedge.toolkit.quant import _search

Floats = npt.NDArray[np.float32]

KEPT = 0.5  # of a correlation; 0.3 to 0.7 differ little on other texts
STEP = 256  # columns; pieces are multiples of it: whole blocks of every kind
_BLOCK = 32
_WHOLE = 127.0


def pieces_of(columns: int, widest: int) -> list[tuple[int, int]]:
    """(first column, columns up to whole blocks of 32) of each piece of a row; all but the last
    are as wide as each other, about equal parts of the row."""
    count = -(-columns // widest)
    piece = -(-columns // count // STEP) * STEP
    return [
        (at, -(-min(piece, columns - at) // _BLOCK) * _BLOCK) for at in range(0, columns, piece)
    ]


def numbers_of(columns: int, widest: int) -> int:
    """Numbers in the triangles of a row's pieces (search_spread.h)."""
    return sum(_search.triangle(wide) for _, wide in pieces_of(columns, widest))


@dataclass(frozen=True, slots=True)
class Correlations:
    """Of a row's columns within each piece: int8, parts of 127, triangle after triangle."""

    widest: int
    parts: npt.NDArray[np.int8]


class Products:
    """Sums of the products of a matrix's inputs, one piece's columns with each other."""

    def __init__(self, columns: int, widest: int) -> None:
        self._columns, self._widest = columns, widest
        self._sums = [
            (at, wide, np.zeros(_search.triangle(wide), np.float32))
            for at, wide in pieces_of(columns, widest)
        ]

    def add(self, inputs: Floats) -> None:
        """inputs (tokens, columns). How tokens are put together in calls tells in the bits."""
        missing = -self._columns % _BLOCK
        if missing:
            inputs = np.pad(inputs, ((0, 0), (0, missing)))
        inputs = np.ascontiguousarray(inputs)
        for at, _, sums in self._sums:
            _search.add_products(inputs, at, sums)

    def correlations(self) -> Correlations:
        """Products of columns over the roots of their squares; what is not finite is none."""
        found = []
        for _, wide, sums in self._sums:
            bands = list(_bands(sums, wide))
            squares = np.concatenate([np.diagonal(band[:, at:]) for at, band in bands])
            with np.errstate(all="ignore"):
                inverse = np.where(squares > 0, 1 / np.sqrt(squares), 0).astype(np.float32)
                for at, band in bands:
                    part = band * inverse[at : at + _BLOCK, None] * inverse[: at + _BLOCK]
                    part = np.where(np.abs(part) <= 2, np.clip(part, -1, 1), 0)
                    found.append(np.rint(part * _WHOLE).astype(np.int8).reshape(-1))
        return Correlations(self._widest, np.concatenate(found))


def mean_squares(
    errors: Floats, importance: Floats | None, correlations: Correlations | None
) -> Floats:
    """errors (rows, columns) of a matrix to the mean square of each of its outputs' errors;
    columns of no known importance count the same, those of no known correlation go alone."""
    scaled = errors
    if importance is not None:
        scaled = errors * np.sqrt(importance.astype(np.float32))
    if importance is None or correlations is None:
        alone: Floats = np.einsum("ij,ij->i", scaled, scaled)
        return alone
    found, done = np.zeros(len(errors), np.float32), 0
    for at, wide in pieces_of(len(importance), correlations.widest):
        stop = done + _search.triangle(wide)
        part = scaled[:, at : at + wide]
        square = _square(correlations.parts[done:stop], wide)[: part.shape[1], : part.shape[1]]
        found += np.einsum("ij,ij->i", part @ square, part)
        done = stop
    return np.maximum(found, 0)


def _square(triangle: npt.NDArray[np.int8], columns: int) -> Floats:
    """A triangle of parts as the whole symmetric matrix."""
    found = np.zeros((columns, columns), np.float32)
    for at, band in _bands(triangle.astype(np.float32), columns):
        found[at : at + _BLOCK, : band.shape[1]] = band
    found = np.tril(found) / np.float32(_WHOLE)
    return found + np.tril(found, -1).T


def _bands(triangle: Floats, columns: int) -> Iterator[tuple[int, Floats]]:
    """(first row, (32, columns up to its last row)) of each band of a triangle."""
    for at in range(0, columns, _BLOCK):
        start, stop = _search.triangle(at), _search.triangle(at + _BLOCK)
        yield at, triangle[start:stop].reshape(_BLOCK, -1)


@dataclass(frozen=True, slots=True)
class Spread:
    """What the rows of a matrix are compensated by."""

    piece: int
    factors: Floats
    weights: Floats

    @classmethod
    def of(cls, importance: Floats, correlations: Correlations) -> Spread:
        """importance (columns): mean squares. UsageError where they do not belong together."""
        columns, widest, parts = len(importance), correlations.widest, correlations.parts
        if len(parts) != numbers_of(columns, widest):
            raise UsageError(
                f"{len(parts)} correlations do not belong to {columns} columns in pieces of"
                f" {widest} at most; {numbers_of(columns, widest)} do"
            )
        missing = -columns % _BLOCK
        roots = np.sqrt(np.pad(importance.astype(np.float32), (0, missing)))
        factors = np.empty(len(parts), np.float32)
        weights = np.empty(columns + missing, np.float32)
        done, pieces = 0, pieces_of(columns, widest)
        for at, wide in pieces:
            stop, end = done + _search.triangle(wide), at + wide
            _search.factor(
                parts[done:stop], roots[at:end], KEPT, factors[done:stop], weights[at:end]
            )
            done = stop
        piece = pieces[0][1] if len(pieces) > 1 else -(-columns // STEP) * STEP
        return cls(piece, factors, weights)
