"""A comparison as rows of plain values: for JSON, CSV, the terminal and the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qedge.runtime.sizes import show_size
from qedge.toolkit.files import new_file
from qedge.toolkit.quality.compare import Comparison, Format
from qedge.toolkit.quality.speeds import MEASURED, UNKNOWN
from qedge.toolkit.quality.statistics import Z, interval, wilson


def row_fields(row: Format) -> dict[str, Any]:
    """One format. Sizes are bytes, rates tokens a second, KL nats a token; *_low and *_high:
    95 % intervals."""
    facts, speed, found = row.facts, row.speed, row.quality
    fields: dict[str, Any] = {
        "format": facts.quant,
        "base": row.is_base,
        "image_bytes": facts.bytes,
        "bits_per_weight": facts.bits_per_weight,
        "arena_bytes": facts.arena_bytes,
        "resident_bytes": facts.resident_bytes,
        "context": facts.context,
        "fits": facts.lacks is None,
        "image_id": facts.image_id,
        "speed": speed.how,
        "load_seconds": speed.load_seconds,
        "peak_rss_bytes": speed.peak_bytes,
        "speed_valid": speed.how == MEASURED and not speed.reasons,
    }
    for name in ("decode", "prefill"):
        low, high = getattr(speed, f"{name}_interval") or (None, None)
        rate = {"": getattr(speed, name), "_low": low, "_high": high}
        fields |= {f"{name}_tokens_per_second{end}": value for end, value in rate.items()}
    for name in ("perplexity", "kl_mean", "ln_ratio"):
        value, error = getattr(found, name), getattr(found, f"{name}_error")
        low, high = interval(value, error)
        fields |= {
            name: value,
            f"{name}_error": error,
            f"{name}_low": low,
            f"{name}_high": high,
        }
    low, high = wilson(round(found.top1 * found.scored_tokens), found.scored_tokens)
    return {
        **fields,
        "kl_median": found.kl_median,
        "kl_999": found.kl_999,
        "top1": found.top1,
        "top1_error": found.top1_error,
        "top1_low": low,
        "top1_high": high,
        "scored_tokens": found.scored_tokens,
    }


def fields(found: Comparison) -> dict[str, Any]:
    """All of it, as --json has it."""
    return {
        "model": found.model,
        "stored": found.stored,
        "base": found.base,
        "board": found.board,
        "text": found.text,
        "chunks": found.chunks,
        "chunk_tokens": found.context,
        "formats": [row_fields(row) for row in found.formats],
        "picks": {pick.goal: asdict(pick) for pick in found.picks},
        "notes": list(found.notes),
        "seconds": found.seconds,
    }


def write_csv(found: Comparison, path: Path) -> None:
    """A line a format, behind one of names. WriteError."""
    rows = [row_fields(row) for row in found.formats]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with new_file(path) as file:
        file.write(text.getvalue().encode("utf-8", "replace"))


HEADS = (
    *("format", "image", "bits", "arena", "resident", "load", "decode", "prefill"),
    *("perplexity", "KL mean", "median", "99.9 %", "same top"),
)


def cells(row: Format) -> list[str]:
    """One format, for people; ~ before what is predicted, ! behind what was measured badly."""
    facts, speed, found = row.facts, row.speed, row.quality
    guess = "" if speed.how in (MEASURED, UNKNOWN) else "~"
    bad = "!" if speed.reasons else ""

    def rate(value: float | None) -> str:
        return "-" if value is None else f"{guess}{value:,.1f}{bad}"

    load = "-" if speed.load_seconds is None else f"{guess}{speed.load_seconds:,.2f} s"
    name = f"{facts.quant}{' (base)' if row.is_base else ''}"
    sizes = [show_size(n) for n in (facts.bytes, facts.arena_bytes, facts.resident_bytes)]
    cost = [f"{found.perplexity:.3f} ±{Z * found.perplexity_error:.3f}"]
    if row.is_base:
        cost += ["0", "0", "0", "100 %"]
    else:
        cost += [
            f"{nats(found.kl_mean)} ±{nats(Z * found.kl_mean_error)}",
            nats(found.kl_median),
            nats(found.kl_999),
            f"{found.top1:.2%} ±{Z * found.top1_error:.2%}",
        ]
    fits = "" if facts.lacks is None else " no room"
    return [
        *(name + fits, sizes[0], f"{facts.bits_per_weight:.2f}", sizes[1], sizes[2]),
        *(load, rate(speed.decode), rate(speed.prefill), *cost),
    ]


def nats(value: float) -> str:
    """A divergence: five decimals, or two digits of one that has none there."""
    return f"{value:.5f}" if value >= 5e-5 or not value else f"{value:.1e}"


def lines(found: Comparison) -> list[str]:
    """The table and the picks, for a terminal."""
    rows = [list(HEADS), *(cells(row) for row in found.formats)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADS))]
    text = [_line(row, widths) for row in rows]
    return [title(found), *text, *(f"{p.goal}: {p.quant}: {p.reason}" for p in found.picks)]


def title(found: Comparison) -> str:
    return (
        f"{found.model} (mostly {found.stored}) on {found.board}; {found.text}, {found.chunks} "
        f"chunks of {found.context} tokens, against {found.base}; ± is 95 %"
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
