"""Where the marks of a plot of two measures stand, both on logarithmic axes: numbers to
coordinates, as plot.py does for bars and runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qedge.toolkit.results.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Frame

TALL = HEIGHT + 80
SHADES = 5  # from the slowest to the fastest; the page has as many colours
_LABEL_WIDTH, _LABEL_HEIGHT = 60, 13  # pixels that a label takes, about
# Round values of a decade, for axes of so many decades at most.
_TICKS = (
    (0.8, (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)),
    (2.5, (1.0, 2.0, 5.0)),
    (math.inf, (1.0,)),
)


@dataclass(frozen=True, slots=True)
class Spot:
    """A value by two measures, both above 0; low and high: y's interval; shade: 0 to 4, None
    where there is none; `hollow`: not measured."""

    x: float
    y: float
    name: str
    text: str
    shade: int | None = None
    low: float | None = None
    high: float | None = None
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Dot:
    """A spot in pixels; label_x and label_y: where its name stands."""

    x: float
    y: float
    name: str
    text: str
    shade: int | None
    low: float | None
    high: float | None
    hollow: bool
    label_x: float
    label_y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter(Frame):
    """Dots over two units."""

    y_unit: str
    dots: list[Dot]
    height: int = TALL


def shades(values: Sequence[float | None]) -> list[int | None]:
    """The shade of each value: fifths of the range from the least to the greatest, on a
    logarithmic scale; None where there is no value."""
    known = [math.log(value) for value in values if value]
    if not known:
        return [None] * len(values)
    low, width = min(known), max(max(known) - min(known), 1e-9)
    return [
        min(SHADES - 1, int((math.log(value) - low) / width * SHADES)) if value else None
        for value in values
    ]


def scatter(title: str, x_unit: str, y_unit: str, spots: Sequence[Spot]) -> Scatter | None:
    """Spots above 0 by both measures; None when there is none."""
    shown = [spot for spot in spots if spot.x > 0 and spot.y > 0]
    if not shown:
        return None
    ys = [value for s in shown for value in (s.y, s.low, s.high) if value and value > 0]
    across, up = Axis([spot.x for spot in shown]), Axis(ys)
    width, height = WIDTH - LEFT - RIGHT, TALL - TOP - BOTTOM

    def x_of(value: float) -> float:
        return round(LEFT + across.share(value) * width, 2)

    def y_of(value: float | None) -> float | None:
        if value is None:
            return None
        return round(TALL - BOTTOM - up.share(max(value, up.least)) * height, 2)

    dots: list[Dot] = []
    for spot in sorted(shown, key=lambda one: (one.x, one.y)):
        x, y = x_of(spot.x), y_of(spot.y) or 0.0
        label = _free(x, y, dots)
        low, high = y_of(spot.low), y_of(spot.high)
        words = (x, y, spot.name, spot.text, spot.shade, low, high, spot.hollow)
        dots.append(Dot(*words, *label))
    rows = [(y_of(value) or 0.0, f"{value:g}") for value in up.ticks()]
    columns = [(x_of(value), f"{value:,g}") for value in across.ticks()]
    return Scatter(
        title=title, x_unit=x_unit, y_unit=y_unit, rows=rows, columns=columns, dots=dots
    )


def _free(x: float, y: float, dots: Sequence[Dot]) -> tuple[float, float]:
    """Where a name stands beside its dot: to the right, or as far up or down as it takes."""
    for step in (0, -1, 1, -2, 2, -3, 3, -4, 4):
        at = x + 9, y + 4 + step * _LABEL_HEIGHT
        near = (
            abs(dot.label_x - at[0]) < _LABEL_WIDTH
            and abs(dot.label_y - at[1]) < _LABEL_HEIGHT - 1
            for dot in dots
        )
        if not any(near):
            break
    return round(at[0], 2), round(at[1], 2)


class Axis:
    """A logarithmic axis over values, with some room at both ends."""

    def __init__(self, values: Sequence[float]) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        room = max(0.08 * (high - low), 0.1)
        self._low, self._high = low - room, high + room
        self.least = 10**self._low

    def share(self, value: float) -> float:
        return (math.log10(value) - self._low) / (self._high - self._low)

    def ticks(self) -> list[float]:
        """Round values on it: the more, the fewer decades it spans."""
        span = self._high - self._low
        parts = next(parts for most, parts in _TICKS if span <= most)
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        found = [part * 10.0**n for n in decades for part in parts]
        return [value for value in found if 0 <= self.share(value) <= 1]
