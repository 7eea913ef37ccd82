"""Perplexity of a text, by the rule of llama.cpp's tool: chunks of `context` tokens without
overlap,
only the second half of each is scored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qedge.runtime._engine import EngineError
from qedge.runtime.errors import BudgetError, ImageError
from qedge.runtime.model import Model

CHUNK = 512  # tokens, as llama.cpp's tool has it
_ROWS = 32  # logit rows held at a time


@dataclass(frozen=True, slots=True)
class Perplexity:
    """exp of the mean negative log-likelihood over scored_tokens."""

    perplexity: float
    scored_tokens: int
    chunks: int
    seconds: float


def evaluate(
    model: Model,
    text: bytes,
    context: int,
    chunks: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Perplexity:
    """Scores the first `chunks` chunks (all when None). The model's context must hold
    `context`.

    ImageError when the text is not UTF-8 or too short for one chunk.
    """
    if not 4 <= context <= model.context:
        raise BudgetError(
            f"chunks of {context} tokens do not fit: give --context from 4 to {model.context}"
        )
    began = time.perf_counter()
    tokens = model.tokenize(text, bos=True)
    vocab = model.image.vocab
    count = len(tokens) // context
    if count == 0:
        raise ImageError(
            f"the text has {len(tokens)} tokens, fewer than one chunk of {context}; give a "
            f"longer one"
        )
    count = count if chunks is None else min(count, max(1, chunks))
    size = model.config["vocab_size"]
    rows = np.empty((_ROWS, -(-size // 32) * 32), np.float32)
    half, total, scored = context // 2, 0.0, 0
    for number in range(count):
        chunk = tokens[number * context : (number + 1) * context]
        if vocab["add_bos"] and vocab["bos"] is not None:
            chunk[0] = vocab["bos"]
        model.reset()
        model.evaluate(chunk[:half])
        for start in range(half, context - 1, _ROWS):
            stop = min(start + _ROWS, context - 1)
            try:
                model.engine.eval(chunk[start:stop], rows[: stop - start])
            except EngineError as error:
                raise ImageError(f"chunk {number}: {error}") from None
            logits = rows[: stop - start, :size].astype(np.float64)
            top = logits.max(axis=1)
            sums = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
            total += float(
                (sums - logits[np.arange(stop - start), chunk[start + 1 : stop + 1]]).sum()
            )
            scored += stop - start
        if progress:
            progress(number + 1, count, math.exp(min(total / scored, 700.0)))
    return Perplexity(
        perplexity=math.exp(min(total / scored, 700.0)),
        scored_tokens=scored,
        chunks=count,
        seconds=time.perf_counter() - began,
    )
