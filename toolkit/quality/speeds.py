"""How fast a format is: measured on this machine in a process of its own, or on a board that is
reached; never here for a board that is another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qedge.runtime.machine import cpus
from qedge.runtime.measure import condition
from qedge.toolkit.board import Board
from qedge.toolkit.device.target import Rounds
from qedge.toolkit.kept import keep, kept
from qedge.toolkit.quality.pool import asked
from qedge.toolkit.results.trust import judge

MEASURED, PREDICTED, UNKNOWN = "measured", "predicted", "not known"
ROUNDS: dict[str, Any] = {
    "prompt_tokens": 256,
    "decode_tokens": 32,
    "least": 6,
    "most": 10,
    "within": 0.03,
}
_FORM = "speed 1"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Speed:
    """Rates are tokens a second, intervals 95 %; how: measured, predicted or not known. A
    measurement that is invalid says why in `reasons`."""

    how: str
    decode: float | None = None
    decode_interval: tuple[float, float] | None = None
    prefill: float | None = None
    prefill_interval: tuple[float, float] | None = None
    load_seconds: float | None = None
    peak_bytes: int | None = None  # resident, of the whole process
    reasons: tuple[str, ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Speed:
        """From JSON."""
        pairs = ("decode_interval", "prefill_interval", "reasons")
        given: dict[str, Any] = dict(fields)
        for name in pairs:
            given[name] = None if given.get(name) is None else tuple(given[name])
        return cls(**given)


def remembered(
    folder: Path, image_id: str, where: str, measure: Callable[[], dict[str, Any]]
) -> Speed:
    """The speed of an image somewhere, measured unless it was before."""
    digest = hashlib.sha256()
    for part in (_FORM, image_id, where, json.dumps(ROUNDS, sort_keys=True)):
        digest.update(part.encode() + b"\0")
    path = folder / f"{digest.hexdigest()[:32]}.json"
    if (data := kept(path)) is not None:
        return Speed.of(json.loads(data))
    fields = _fields(measure())
    keep(path, json.dumps(fields).encode())
    return Speed.of(fields)


def this_machine() -> str:
    """What a speed depends on beside the image: processor and CPUs."""
    return f"here {condition.machine()} {cpus()}"


def here(image: Path, context: int) -> dict[str, Any]:
    """Measures an image, built for a context, on this machine."""
    fitting = {
        "prompt_tokens": min(ROUNDS["prompt_tokens"], context),
        "decode_tokens": max(1, min(ROUNDS["decode_tokens"], context // 2)),
    }
    found = asked({"bench": str(image), "rounds": {**ROUNDS, **fitting, "cold": True}})
    assert isinstance(found, dict)
    return found


def there(
    board: Board, port: str | None, identity: str | None, image: Path, say: Say
) -> dict[str, Any]:
    """Puts an image on a board and measures it there; it stays there. What flash and bench
    raise."""
    from qedge.toolkit.device.reach import reach
    from qedge.toolkit.device.there import on_board
    from qedge.toolkit.device.visit import flash_board
    from qedge.toolkit.make.signature import SignedImage

    flash_board(board, port, SignedImage.open(image), identity=identity, say=say)
    with reach(board, port, identity, say) as found:
        return on_board(board, found.device, found.hello).bench(Rounds())


def _fields(results: Mapping[str, Any]) -> dict[str, Any]:
    """A measurement's results as a Speed's fields."""
    decode = results.get("decode") or [{}]
    prefill = results.get("prefill") or {}
    names = ("first_answer_seconds", "ttft_seconds", "open_seconds")
    first, ready, opened = (results.get(name) for name in names)
    return {
        "how": MEASURED,
        "decode": results.get("decode_tokens_per_second"),
        "decode_interval": decode[0].get("interval"),
        "prefill": results.get("prefill_tokens_per_second"),
        "prefill_interval": prefill.get("interval"),
        "load_seconds": None
        if first is None or ready is None
        else max(opened or 0, first - ready),
        "peak_bytes": results.get("peak_rss_bytes"),
        "reasons": judge(results).reasons,
    }
