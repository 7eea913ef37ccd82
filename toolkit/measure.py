"""Times a model: prefill and decode apart, medians over repeats."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from qedge.runtime.errors import BudgetError, UsageError
from qedge.runtime.machine import peak_rss_bytes
from qedge.runtime.model import Model


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians. Rates are tokens a second."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    ttft_seconds: float
    arena_bytes: int
    peak_rss_bytes: int
    kernels: str
    repeat: int
    threads: int
    prompt_tokens: int
    decode_tokens: int
    depth: int


def _tokens(vocab_size: int, count: int, seed: int) -> list[int]:
    """Tokens spread over the vocabulary, the same every time."""
    return [(seed + n * 2654435761) % 2**32 * vocab_size >> 32 for n in range(count)]


def measure(
    model: Model,
    threads: int,
    *,
    prompt_tokens: int = 512,
    decode_tokens: int = 128,
    depth: int = 0,
    repeat: int = 3,
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """Measures on an open model. Decode starts behind `depth` tokens (at least one), and is
    timed
    apart from evaluating them. BudgetError when the context is too short."""
    for name, value, least in (
        ("--prompt-tokens", prompt_tokens, 1),
        ("--decode-tokens", decode_tokens, 1),
        ("--depth", depth, 0),
        ("--repeat", repeat, 1),
    ):
        if value < least:
            raise UsageError(f"{name} {value}: it must be at least {least}")
    longest = max(prompt_tokens, max(1, depth) + decode_tokens)
    if longest > model.context:
        raise BudgetError(
            f"measuring takes {longest:,} tokens, the context holds {model.context:,}; give "
            "less --prompt-tokens, --depth or --decode-tokens"
        )
    vocab_size = model.config["vocab_size"]
    prompt = _tokens(vocab_size, prompt_tokens, 1)
    behind = _tokens(vocab_size, max(1, depth), 2)
    drawn = _tokens(vocab_size, decode_tokens, 3)
    engine = model.engine
    engine.set_sampler(0.0, 0, 1.0, 0.0, 1.0, 0)
    model.reset()
    model.evaluate(prompt[:16])  # pages in, workers awake
    prefill, first, decode = [], [], []
    for number in range(repeat):
        model.reset()
        began = time.perf_counter()
        model.evaluate(prompt)
        ended = time.perf_counter()
        engine.sample()
        first.append(time.perf_counter() - began)
        prefill.append(prompt_tokens / (ended - began))
        model.reset()
        model.evaluate(behind)
        began = time.perf_counter()
        for token in drawn:
            model.evaluate((token,))
        decode.append(decode_tokens / (time.perf_counter() - began))
        if progress:
            progress(number + 1)
    return Measured(
        prefill_tokens_per_second=statistics.median(prefill),
        decode_tokens_per_second=statistics.median(decode),
        ttft_seconds=statistics.median(first),
        arena_bytes=model.arena_bytes,
        peak_rss_bytes=peak_rss_bytes(),
        kernels=model.kernels,
        repeat=repeat,
        threads=threads,
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        depth=depth,
    )
