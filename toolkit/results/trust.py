"""What a measurement is worth: flags by name, from the conditions that were noted around it.
It reads only what was measured, so it judges a board's results as it judges this machine's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qedge.runtime.measure.condition import (
    CAPPED,
    EARLIER,
    SOFT_LIMIT,
    THROTTLED,
    UNDER_VOLTAGE,
)

CLOCK_SHARE = 0.97  # of the maximum: measured clocks waver by a percent
BUSY_SHARE = 0.05  # of all CPU time, spent by others
LEAST_BUSY_TICKS = 5  # below it, ticks are too coarse to tell
HOT_MILLIDEGREES = 80_000  # where Raspberry Pis from 3 to 5 begin to lower their clock
LEAST_FAULTS = 16  # reads of the image in rounds that should have needed none
COLD_SHARE = 0.05  # of the image that may stay in memory and still be called cold
SLOW_GOVERNORS = ("powersave",)  # where no clock is told: elsewhere the clock is what counts

_SLOWED = CAPPED | THROTTLED | SOFT_LIMIT
_NOTED = ("throttled-earlier", "under-voltage-earlier", "hot", "not-cold")
_FACTS = {
    "clock": "clock_hz",
    "temperature": "temperature_millidegrees",
    "throttling": "throttled_bits",
    "swap": "swap_in_pages",
    "load": "busy_ticks",
}

Samples = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Flag:
    """Something about a run that its reader must know."""

    name: str
    text: str

    @property
    def invalidates(self) -> bool:
        """Whether the figures are no longer the board's speed."""
        return self.name not in _NOTED


@dataclass(frozen=True, slots=True)
class Verdict:
    """flags: what was seen. unseen: what the machine does not tell, so that nobody knows."""

    flags: tuple[Flag, ...]
    unseen: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        return not self.reasons

    @property
    def reasons(self) -> list[str]:
        """Why it is invalid, as `name: text`; none when it is valid."""
        return [f"{flag.name}: {flag.text}" for flag in self.flags if flag.invalidates]

    def fields(self) -> dict[str, Any]:
        """What --json and a line of results say of it."""
        return {
            "valid": self.valid,
            "flags": [
                {"name": flag.name, "text": flag.text, "invalidates": flag.invalidates}
                for flag in self.flags
            ],
            "unseen": list(self.unseen),
        }


def judge(results: Mapping[str, Any]) -> Verdict:
    """The verdict on the results of runtime/measure, or on what a board sent of them: a fact
    that is missing, or None, raises no flag."""
    found: Any = results.get("samples")
    samples = [one for one in found if isinstance(one, Mapping)] if _listed(found) else []
    flags = [*_of_results(results)]
    for rule in (_voltage, _throttled, _slow_clock, _swapped, _busy, _paging, _hot):
        if rule is not _paging or not results.get("allow_paging"):
            flags += [Flag(*each) for each in rule(samples)]
    unseen = [name for name, key in _FACTS.items() if samples and not _values(samples, key)]
    return Verdict(tuple(flags), tuple(unseen))


def _listed(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _number(value: Any) -> float | None:
    """A figure, or None for what is none: not every board speaks the truth."""
    number = isinstance(value, (int, float)) and abs(value) < 1e18  # nor nan
    return value if number else None


def _values(samples: Samples, key: str, phase: str | None = None) -> list[Any]:
    return [
        one[key]
        for one in samples
        if _number(one.get(key)) is not None and phase in (None, one.get("phase"))
    ]


def _grown(samples: Samples, key: str) -> int:
    """How much a counter grew from the first sample to the last."""
    values = _values(samples, key)
    return values[-1] - values[0] if values else 0


def _of_results(results: Mapping[str, Any]) -> Iterator[Flag]:
    if results.get("emulated"):
        yield Flag("emulated", "an emulator's time says nothing about a board's speed")
    if results.get("converged") is False:
        yield Flag("not-converged", _not_closed(results))
    share = _number(results.get("cached_share_at_open")) or 0.0
    if results.get("cache") == "cold" and share > COLD_SHARE:
        yield Flag("not-cold", f"{share:.0%} of the image stayed in memory when it was opened")


def _not_closed(results: Mapping[str, Any]) -> str:
    rounds, within = results.get("repeat"), _number(results.get("within")) or 0.0
    decode: Any = results.get("decode")
    wide = []
    for one in decode if _listed(decode) else ():
        if not isinstance(one, Mapping) or not _listed(one.get("interval")):
            return f"{rounds} rounds are too few for an interval of 95 %; it takes 6"
        middle = _number(one.get("tokens_per_second"))
        ends = [_number(value) for value in one["interval"]]
        if middle and len(ends) == 2 and ends[0] is not None and ends[1] is not None:
            off = max(ends[1] - middle, middle - ends[0]) / middle
            if off > within:
                wide.append(f"±{off:.1%} at depth {one.get('depth')}")
    known = f"known to {', '.join(wide)}" if wide else "not known"
    return f"decode is {known} after {rounds} rounds, not to ±{within:.1%}"


def _bits(samples: Samples) -> tuple[int, int, int]:
    """(set in any sample, set since the start before the run, the same after)."""
    values = [int(bits) for bits in _values(samples, "throttled_bits")]
    now = 0
    for bits in values:
        now |= bits
    return now, (values[0] >> EARLIER if values else 0), now >> EARLIER


def _voltage(samples: Samples) -> Iterator[tuple[str, str]]:
    now, before, after = _bits(samples)
    if (now | after & ~before) & UNDER_VOLTAGE:
        yield "under-voltage", "the supply fell below 4.63 V; use a stronger one"
    elif before & UNDER_VOLTAGE:
        yield (
            "under-voltage-earlier",
            "the supply was too weak before this run, since the board started",
        )


def _throttled(samples: Samples) -> Iterator[tuple[str, str]]:
    now, before, after = _bits(samples)
    if found := (now | after & ~before) & _SLOWED:
        names = {CAPPED: "frequency capped", THROTTLED: "throttled", SOFT_LIMIT: "soft limit"}
        how = ", ".join(name for bit, name in names.items() if found & bit)
        yield (
            "throttled",
            f"the firmware slowed the board ({how}); cool it, or supply it better",
        )
    elif before & _SLOWED:
        yield (
            "throttled-earlier",
            "the firmware slowed the board before this run, since it started; until it is "
            "restarted, slowing between two samples would not show",
        )


def _slow_clock(samples: Samples) -> Iterator[tuple[str, str]]:
    most = max(_values(samples, "clock_max_hz"), default=0)
    clocks = _values(samples, "clock_hz", "round")
    mean = sum(clocks) / len(clocks) if clocks else most
    limit = min(_values(samples, "clock_limit_hz"), default=most)
    governors = [one.get("governor") for one in samples]
    slow = [name for name in SLOW_GOVERNORS if name in governors]
    texts: list[str] = []
    if mean < CLOCK_SHARE * most:
        texts.append(f"{mean / 1e6:,.0f} MHz in the rounds")
    if limit < CLOCK_SHARE * most:
        texts.append(f"limited to {limit / 1e6:,.0f} MHz")
    if texts or (slow and not clocks):
        texts += [f"governor {name}" for name in slow]
        top = f" of {most / 1e6:,.0f} MHz" if most else ""
        yield "slow-clock", f"{', '.join(texts)}{top}; set the governor `performance`"


def _swapped(samples: Samples) -> Iterator[tuple[str, str]]:
    inward, outward = _grown(samples, "swap_in_pages"), _grown(samples, "swap_out_pages")
    if inward > 0 or outward > 0:
        yield "swapped", f"{inward:,} pages came from swap and {outward:,} went to it"


def _busy(samples: Samples) -> Iterator[tuple[str, str]]:
    if not _values(samples, "own_ticks"):
        return  # whose work it was is not known
    total = _grown(samples, "total_ticks")
    others = _grown(samples, "busy_ticks") - _grown(samples, "own_ticks")
    if others >= LEAST_BUSY_TICKS and others > BUSY_SHARE * total:
        share = others / max(total, others)
        yield "busy", f"other programs took {share:.0%} of the CPU time; stop them"


def _paging(samples: Samples) -> Iterator[tuple[str, str]]:
    faults = _grown([one for one in samples if one.get("phase") != "before"], "major_faults")
    if faults >= LEAST_FAULTS:
        yield "paging", f"the image was read from storage {faults:,} times in warm rounds"


def _hot(samples: Samples) -> Iterator[tuple[str, str]]:
    most = max(_values(samples, "temperature_millidegrees"), default=0)
    if most >= HOT_MILLIDEGREES:
        yield "hot", f"{most / 1000:.0f} °C: from 80 °C on, boards slow down"
