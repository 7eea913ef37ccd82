"""A page of measurements: lines of results to one self-contained HTML file, with a table and
plots over runs and boards. Figures of invalid runs are shown, marked, and never counted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qedge.runtime.errors import UsageError
from qedge.runtime.measure.rounds import median
from qedge.toolkit.make.build import check_output
from qedge.toolkit.results import pages
from qedge.toolkit.results.plot import Plot, Point, plot
from qedge.toolkit.results.record import Records, read

DECODE, PREFILL = "decode_tokens_per_second", "prefill_tokens_per_second"
PREDICTED = "predicted_tokens_per_second"


@dataclass(frozen=True, slots=True)
class Row:
    """A run as the table shows it. Rates are tokens a second; None: not measured."""

    number: int
    series: int
    when: str
    group: str
    machine: str
    image: str
    prefill: float | None
    decode: float | None
    depth: str
    depths: str
    interval: tuple[float, float] | None
    prefill_interval: tuple[float, float] | None
    predicted: float | None
    first_ms: float | None
    joules: float | None
    peak_mib: float | None
    hottest: float | None
    cache: str
    status: str  # "valid", "invalid" or "not judged"
    flags: list[tuple[str, str, bool]]  # name, text, whether it makes the run invalid
    source: str


def write_report(paths: Sequence[str | os.PathLike[str]], output: Path) -> Records:
    """Reads files of results, writes the page, and says what it holds and what was skipped.
    ImageError when no line is left, WriteError, UsageError when output is one of the files."""
    for path in paths:
        if output.exists() and os.path.exists(path) and output.samefile(path):
            raise UsageError(f"{output}: holds results; name another output")
    check_output(output)
    records = read(paths)
    pages.write(render(records), output)
    return records


def render(records: Records) -> str:
    """The page. Whatever a line says is text on it, never markup."""
    lines = sorted(records.lines, key=lambda line: _text(line.get("when")))  # stable
    groups = list(dict.fromkeys(_group(line) for line in lines))
    rows = [_row(n, line, groups.index(_group(line))) for n, line in enumerate(lines, 1)]
    return pages.render(
        "results/report.html",
        rows=rows,
        groups=groups,
        plots=[one for one in _plots(rows, groups) if one is not None],
        skipped=records.skipped,
    )


def _plots(rows: Sequence[Row], groups: Sequence[str]) -> list[Plot | None]:
    unit = "tokens a second"
    numbers = [str(row.number) for row in rows]
    marks = [f"{chr(65 + n % 26)}{n // 26 or ''}" for n in range(len(groups))]
    return [
        plot("Decode, run by run", unit, _over_runs(rows, "decode"), numbers),
        plot("Prefill, run by run", unit, _over_runs(rows, "prefill"), numbers),
        plot("Decode, board by board", unit, _over_boards(rows, "decode"), marks, bars=True),
        plot("Prefill, board by board", unit, _over_boards(rows, "prefill"), marks, bars=True),
    ]


def _over_runs(rows: Sequence[Row], what: str) -> list[Point]:
    points = []
    for row in rows:
        value = getattr(row, what)
        if value is None:
            continue
        bounds = (row.interval if what == "decode" else row.prefill_interval) or (None, None)
        points.append(
            Point(
                at=row.number - 1,
                value=value,
                series=row.series,
                text=f"run {row.number}, {row.group}: {value:,.1f} ({row.status})",
                valid=row.status == "valid",
                low=bounds[0],
                high=bounds[1],
                predicted=row.predicted if what == "decode" else None,
            )
        )
    return points


def _over_boards(rows: Sequence[Row], what: str) -> list[Point]:
    """Of every board with its image and threads, the median of the valid runs."""
    points = []
    for series in sorted({row.series for row in rows}):
        ours = [row for row in rows if row.series == series and row.status == "valid"]
        values = [value for row in ours if (value := getattr(row, what)) is not None]
        if not values:
            continue
        predicted = [row.predicted for row in ours if row.predicted is not None]
        middle = median(values)
        points.append(
            Point(
                at=series,
                value=middle,
                series=series,
                text=f"{ours[0].group}: {middle:,.1f}, median of {len(values)} valid runs",
                predicted=median(predicted) if predicted and what == "decode" else None,
            )
        )
    return points


def _row(number: int, line: dict[str, Any], series: int) -> Row:
    decode = [one for one in _list(line.get("decode")) if isinstance(one, dict)]
    first: dict[str, Any] = decode[0] if decode else {}
    prefill = line.get("prefill")
    ttft, peak = _number(line.get("ttft_seconds")), _number(line.get("peak_rss_bytes"))
    samples = [one for one in _list(line.get("samples")) if isinstance(one, dict)]
    heat = [_number(one.get("temperature_millidegrees")) for one in samples]
    hottest = max((one for one in heat if one is not None), default=None)
    valid = line.get("valid")
    return Row(
        number=number,
        series=series,
        when=_text(line.get("when")),
        group=_group(line),
        machine=_text(line.get("machine")),
        image=_text(line.get("image_id"))[:12],
        prefill=_number(line[PREFILL]),
        decode=_number(line[DECODE]),
        depth=_text(line.get("depth")),
        depths=", ".join(_at_depth(one) for one in decode[1:]),
        interval=_interval(first),
        prefill_interval=_interval(prefill) if isinstance(prefill, dict) else None,
        predicted=_number(line.get(PREDICTED)),
        first_ms=None if ttft is None else ttft * 1000,
        joules=_number(line.get("joules_per_token")),
        peak_mib=None if peak is None else peak / 2**20,
        hottest=None if hottest is None else hottest / 1000,
        cache=_text(line.get("cache")),
        status="not judged" if valid is None else "valid" if valid is True else "invalid",
        flags=[
            (_text(one.get("name")), _text(one.get("text")), bool(one.get("invalidates", True)))
            for one in _list(line.get("flags"))
            if isinstance(one, dict)
        ],
        source=_text(line.get("source")),
    )


def _group(line: dict[str, Any]) -> str:
    """What may be compared: board, image and threads."""
    board, image = _text(line.get("board")) or "?", os.path.basename(_text(line.get("target")))
    if image == board:
        image = f"image {_text(line.get('image_id'))[:8]}"
    threads = _text(line.get("threads"))
    parts = [board, image, threads and f"{threads} threads"]
    return ", ".join(part for part in parts if part)


def _at_depth(one: dict[str, Any]) -> str:
    rate = _number(one.get("tokens_per_second"))
    return f"{'-' if rate is None else format(rate, ',.1f')} at {_text(one.get('depth'))}"


def _interval(one: dict[str, Any]) -> tuple[float, float] | None:
    bounds = [_number(value) for value in _list(one.get("interval"))]
    if len(bounds) != 2 or bounds[0] is None or bounds[1] is None:
        return None
    return bounds[0], bounds[1]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float | None:
    """A figure of a line, or None when it is none that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value < 1e15 else None


def _text(value: Any) -> str:
    return "" if value is None else str(value)[:200]
