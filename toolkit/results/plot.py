"""Where the marks of a plot stand: numbers to coordinates. report.html draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 860, 300
LEFT, RIGHT, TOP, BOTTOM = 70, 15, 15, 45  # margins
SERIES = 8  # colours before they repeat: report.html has as many
_LABELS = 12  # along a side, before they would touch
_TALL = 0.04  # of the plot's width: a bar at most, a share of its room otherwise


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a place along the plot; `low` and `high` are its interval, `predicted` what
    it was expected to be, all in the unit of the value."""

    at: int
    value: float
    series: int
    text: str
    valid: bool = True
    low: float | None = None
    high: float | None = None
    predicted: float | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A point in pixels."""

    x: float
    y: float
    half: float  # of a bar's width
    colour: int
    label: str
    text: str
    valid: bool
    low: float | None
    high: float | None
    predicted: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What is drawn around marks: axes as (pixel, label)."""

    title: str
    x_unit: str
    rows: list[tuple[float, str]]
    columns: list[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP

    @property
    def floor(self) -> int:
        return self.height - BOTTOM


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot(Frame):
    """Marks, and whether they are bars."""

    unit: str
    bars: bool
    marks: list[Mark]


def plot(
    title: str, unit: str, points: Sequence[Point], labels: Sequence[str], *, bars: bool = False
) -> Plot | None:
    """Points over places that are called labels; None when there is nothing to show."""
    if not points:
        return None
    highest = max(
        value
        for one in points
        for value in (one.value, one.high, one.predicted)
        if value is not None
    )
    step = _step(highest)
    top = max(step, math.ceil(highest / step) * step)
    room = (WIDTH - LEFT - RIGHT) / max(1, len(labels))

    def y_of(value: float | None) -> float | None:
        if value is None:
            return None
        return round(HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM), 2)

    def x_of(at: int) -> float:
        return round(LEFT + (at + 0.5) * room, 2)

    marks = [
        Mark(
            x=x_of(one.at),
            y=y_of(one.value) or 0.0,
            half=round(min(room * 0.3, WIDTH * _TALL), 2),
            colour=one.series % SERIES,
            label=f"{one.value:,.1f}",
            text=one.text,
            valid=one.valid,
            low=y_of(one.low),
            high=y_of(one.high),
            predicted=y_of(one.predicted),
        )
        for one in points
    ]
    every = 1 if bars else math.ceil(len(labels) / _LABELS)
    return Plot(
        title=title,
        x_unit="" if bars else "run",
        unit=unit,
        bars=bars,
        rows=[(y_of(n * step) or 0.0, f"{n * step:,g}") for n in range(round(top / step) + 1)],
        columns=[(x_of(at), text) for at, text in enumerate(labels) if at % every == 0],
        marks=marks,
    )


def _step(highest: float) -> float:
    """A round distance between lines, so that there are four to ten of them."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(power * part for part in (0.1, 0.2, 0.5, 1, 2) if highest <= power * part * 8)
