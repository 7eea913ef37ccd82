"""Times a model: prefill, decode at depths, first token, peak memory, joules. Rounds are
repeated until the medians are known; the machine's condition is noted before, between and
after. Runs on the board, too; what the figures are worth says toolkit/results/trust.py."""

from __future__ import annotations

import math
import os
import time

from qedge.runtime.arguments import number, whole
from qedge.runtime.errors import BudgetError, ImageError, UsageError
from qedge.runtime.machine import peak_rss_bytes
from qedge.runtime.measure import condition, page_cache
from qedge.runtime.sampling import GREEDY, MOST_TOKENS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from qedge.runtime.model import Model

CONFIDENCE = 0.95
WITHIN = 0.02  # of the median, each way
LEAST_ROUNDS, MOST_ROUNDS = 6, 30  # five rounds have no interval of 95 %
ROUNDS_LIMIT = 1 << 16
# What is measured unless it is said.
DEFAULTS: dict[str, Any] = {
    "prompt_tokens": 512,
    "decode_tokens": 128,
    "least": LEAST_ROUNDS,
    "most": MOST_ROUNDS,
    "within": WITHIN,
}

FIELDS = (
    *("prefill_tokens_per_second", "decode_tokens_per_second", "ttft_seconds"),
    *("arena_bytes", "peak_rss_bytes", "kernels", "repeat", "threads", "prompt_tokens"),
    *("decode_tokens", "depth", "image_id", "prefill", "decode", "within", "converged"),
    *("cache", "cached_share_at_open", "open_seconds", "first_answer_seconds"),
    *("idle_watts", "decode_watts", "joules_per_token", "allow_paging", "machine", "samples"),
)


def measure(
    path: str | os.PathLike[str],
    opener: Callable[[], Model],
    *,
    prompt_tokens: int = DEFAULTS["prompt_tokens"],
    decode_tokens: int = DEFAULTS["decode_tokens"],
    depths: Sequence[int] = (0,),
    repeat: int | None = None,
    least: int = LEAST_ROUNDS,
    most: int = MOST_ROUNDS,
    within: float = WITHIN,
    cold: bool = False,
    allow_paging: bool = False,
    sample: Callable[[], dict[str, Any]] = condition.sample,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Opens the image at path with opener, measures, closes it; all FIELDS, plain values.

    Rounds go on until the interval of every depth's decode rate lies within `within` of its
    median, `least` at least and `most` at most; `repeat` makes exactly so many instead. Decode
    starts behind depths tokens (at least one). cold: the system forgets the image before it is
    opened; rounds are warm all the same. progress is told (rounds done, most).

    Rates are tokens a second, `prefill` and `decode` hold median, interval and every round.
    UsageError; BudgetError when the context is too short; what opener raises.
    """
    check_counts(depths, prompt_tokens, decode_tokens, repeat)
    check_rounds(least, most, within)
    first, last = (repeat, repeat) if repeat is not None else (least, most)
    depths = sorted(set(depths or (0,)))
    samples = [{"phase": "before", **sample()}]
    found = _forgotten(path, cold)
    began = time.perf_counter()
    with opener() as model:
        found["open_seconds"] = time.perf_counter() - began
        rounds = _Rounds(model, prompt_tokens, decode_tokens, depths)
        found["first_answer_seconds"] = found["open_seconds"] + rounds.once()
        rounds.clear()  # that one paged the image in, and woke the workers
        samples.append({"phase": "warm", **rounds.loaded(sample)})
        for done in range(1, last + 1):
            rounds.once()
            samples.append({"phase": "round", **rounds.loaded(sample)})
            if progress:
                progress(done, last)
            if done >= first and rounds.within(within):
                break
        samples.append({"phase": "after", **sample()})
        found.update(rounds.found())
        return {
            **found,
            **_power(samples, found["decode_tokens_per_second"]),
            "within": within,
            "converged": rounds.within(within),
            "arena_bytes": model.arena_bytes,
            "peak_rss_bytes": peak_rss_bytes(),
            "kernels": model.kernels,
            "threads": model.threads,
            "image_id": model.image_id,
            "allow_paging": allow_paging,
            "machine": condition.machine(),
            "samples": samples,
        }


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else sum(ordered[middle - 1 : middle + 1]) / 2


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The confidence interval of the median, at least 95 %, by order statistics: no matter how
    the values are distributed, it lies between the k-th smallest and the k-th largest with
    probability 1 - 2 P(X < k), X of the binomial distribution (n, 1/2) (W. J. Conover,
    Practical Nonparametric Statistics, 3rd ed., section 3.2). None below six values."""
    count = len(values)
    tail, kept = 0, 0
    while True:
        tail += math.comb(count, kept)
        if 2 * tail > (1 - CONFIDENCE) * 2**count:
            break
        kept += 1
    ordered = sorted(values)
    return (ordered[kept - 1], ordered[-kept]) if kept else None


def summary(rates: Sequence[float]) -> dict[str, Any]:
    """Median, its interval (None: too few) and all rates in the order that they came."""
    bounds = interval(rates)
    return {
        "tokens_per_second": median(rates),
        "interval": None if bounds is None else list(bounds),
        "rounds": list(rates),
    }


def closed(rates: Sequence[float], within: float) -> bool:
    """Whether the median's interval lies within a share of the median, both ways."""
    bounds = interval(rates)
    if bounds is None:
        return False
    middle = median(rates)
    return max(bounds[1] - middle, middle - bounds[0]) <= within * middle


def check_counts(
    depths: Sequence[int], prompt_tokens: int, decode_tokens: int, repeat: int | None
) -> None:
    """UsageError for a count out of its range."""
    whole("--prompt-tokens", prompt_tokens, 1, MOST_TOKENS)
    whole("--decode-tokens", decode_tokens, 1, MOST_TOKENS)
    for depth in depths:
        whole("--depth", depth, 0, MOST_TOKENS)
    if repeat is not None:
        whole("--repeat", repeat, 1, ROUNDS_LIMIT)


def check_rounds(least: int, most: int, within: float) -> None:
    """UsageError for rounds that cannot be made, or an interval that is none."""
    whole("--rounds: the least", least, 1, ROUNDS_LIMIT)
    whole("--rounds: the most", most, 1, ROUNDS_LIMIT)
    if most < least:
        raise UsageError(f"at least {least} rounds and at most {most}: give more at most")
    number("--within, as a share of the median,", within, 0.0, math.inf)


def _forgotten(path: str | os.PathLike[str], cold: bool) -> dict[str, Any]:
    """Drops the image from the page cache when asked to, and says how much of it is there."""
    try:
        if cold and not page_cache.forget(path) and os.path.isfile(path):
            raise UsageError(
                "--cold: this system cannot be asked to forget a file; leave it out"
            )
        return {
            "cache": "cold" if cold else "warm",
            "cached_share_at_open": page_cache.share(path),
        }
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; give an image that can be read") from None


def _power(samples: Sequence[dict[str, Any]], rate: float) -> dict[str, Any]:
    """Watts before and while it decodes, and joules a token; None where no watts are told."""
    read = [one["watts"] for one in samples if one["phase"] == "round" and one.get("watts")]
    mean = sum(read) / len(read) if read else None
    return {
        "idle_watts": samples[0].get("watts"),
        "decode_watts": mean,
        "joules_per_token": mean / rate if mean else None,
    }


def spread(vocab_size: int, count: int, seed: int) -> list[int]:
    """Tokens spread over the vocabulary, the same every time."""
    return [(seed + n * 2654435761) % 2**32 * vocab_size >> 32 for n in range(count)]


class _Rounds:
    """One model, timed again and again. Depths ascend, and decode at each goes on behind what
    was evaluated before: which tokens they are changes no speed."""

    def __init__(
        self, model: Model, prompt_tokens: int, decode_tokens: int, depths: Sequence[int]
    ) -> None:
        longest = max(prompt_tokens, max(1, *depths) + decode_tokens)
        if longest > model.context:
            raise BudgetError(
                f"measuring takes {longest:,} tokens, the context holds {model.context:,}; "
                "give less --prompt-tokens, --depth or --decode-tokens"
            )
        vocab_size = model.config["vocab_size"]
        self._model, self._prompt_tokens = model, prompt_tokens
        self._filling = spread(vocab_size, max(prompt_tokens, *depths, 1), 1)
        self._drawn = spread(vocab_size, decode_tokens, 3)
        self._depths = depths
        model.engine.set_sampler(*GREEDY.values)
        self.clear()

    def clear(self) -> None:
        self._prefill: list[float] = []
        self._first: list[float] = []
        self._decode: dict[int, list[float]] = {depth: [] for depth in self._depths}

    def once(self) -> float:
        """A round; the seconds to its first token."""
        model, prompt = self._model, self._filling[: self._prompt_tokens]
        model.reset()
        began = time.perf_counter()
        model.evaluate(prompt)
        ended = time.perf_counter()
        model.engine.sample()
        self._first.append(time.perf_counter() - began)
        self._prefill.append(len(prompt) / (ended - began))
        for depth in self._depths:
            self._stand_at(depth)
            self._decode[depth].append(len(self._drawn) / self._run())
        return self._first[-1]

    def _stand_at(self, depth: int) -> None:
        engine, depth = self._model.engine, max(1, depth)
        engine.rewind(min(engine.position, depth))
        self._model.evaluate(self._filling[engine.position : depth])

    def _run(self) -> float:
        """Decodes once; seconds."""
        began = time.perf_counter()
        for token in self._drawn:
            self._model.evaluate((token,))
        return time.perf_counter() - began

    def within(self, share: float) -> bool:
        return all(closed(rates, share) for rates in self._decode.values())

    def found(self) -> dict[str, Any]:
        decode = [{"depth": depth, **summary(rates)} for depth, rates in self._decode.items()]
        prefill = {"prompt_tokens": self._prompt_tokens, **summary(self._prefill)}
        return {
            "prefill_tokens_per_second": prefill["tokens_per_second"],
            "decode_tokens_per_second": decode[0]["tokens_per_second"],
            "ttft_seconds": median(self._first),
            "repeat": len(self._first),
            "prompt_tokens": self._prompt_tokens,
            "decode_tokens": len(self._drawn),
            "depth": self._depths[0],
            "prefill": prefill,
            "decode": decode,
        }

    def loaded(self, sample: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A sample that is taken while it decodes, untimed: an idle board's clock and watts
        are not those of the rounds, and taking them in a round would cost it time."""
        import threading

        ended = threading.Event()

        def work() -> None:
            while not ended.is_set():
                self._stand_at(self._depths[0])
                for token in self._drawn:
                    if not ended.is_set():
                        self._model.evaluate((token,))

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            return sample()
        finally:
            ended.set()
            worker.join()
