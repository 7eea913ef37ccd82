"""Perplexity of a text, and divergence from another image of the same model, by the rules of
llama.cpp's tool: chunks of `context` tokens without overlap, only the second half of each is
scored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from qedge.runtime.errors import BudgetError, ImageError
from qedge.runtime.model import Model
from qedge.toolkit.quality.scoring import CHUNK, KL, NLL, Scorer, chunks_of, rows_held
from qedge.toolkit.quality.statistics import (
    Divergence,
    exp,
    joined,
    perplexity,
    summary,
)

__all__ = ["CHUNK", "Against", "Perplexity", "against", "evaluate", "memory_bytes"]

Progress = Callable[[int, int, float], None]  # chunks done, of, the figure so far
_SHAPE = ("layers", "dim", "heads", "kv_heads", "head_size", "ffn")


@dataclass(frozen=True, slots=True)
class Perplexity:
    """exp of the mean negative log-likelihood over scored_tokens."""

    perplexity: float
    perplexity_error: float
    scored_tokens: int
    chunks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Against:
    """A divergence, of which image, over how many chunks."""

    against: str  # the other image's id
    divergence: Divergence
    chunks: int
    seconds: float


def evaluate(
    model: Model,
    text: bytes,
    context: int,
    chunks: int | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """Scores the first `chunks` chunks (all when None). The model's context must hold
    `context`.

    ImageError when the text is not UTF-8 or too short for one chunk.
    """
    began = time.perf_counter()
    tokens = chunks_of(model, text, context, chunks)
    parts, total = [], 0.0
    with Scorer([model]) as scorer:
        for number, chunk in enumerate(tokens, 1):
            parts.append(scorer.chunk(chunk)[0, :, NLL])
            total += float(parts[-1].mean())
            if progress:
                progress(number, len(tokens), exp(total / number))
    found, error = perplexity(joined(parts))
    return Perplexity(
        perplexity=found,
        perplexity_error=error,
        scored_tokens=sum(map(len, parts)),
        chunks=len(tokens),
        seconds=time.perf_counter() - began,
    )


def against(
    model: Model,
    base: Model,
    text: bytes,
    context: int,
    chunks: int | None = None,
    progress: Progress | None = None,
) -> Against:
    """How far the model's predictions lie from those of `base`, another image of the same
    model. Both are open at once; memory_bytes says what their logits take beside them.

    ImageError as evaluate, and when the two are not one model."""
    began = time.perf_counter()
    check_same(model, base)
    if base.context < context:
        raise BudgetError(
            f"{base.path}: chunks of {context} tokens do not fit its context of "
            f"{base.context}; give --context {base.context}"
        )
    tokens = chunks_of(model, text, context, chunks)
    parts, total = [], 0.0
    with Scorer([base, model]) as scorer:
        for number, chunk in enumerate(tokens, 1):
            parts.append(scorer.chunk(chunk)[0])
            total += float(parts[-1][:, KL].mean())
            if progress:
                progress(number, len(tokens), total / number)
    return Against(
        against=base.image_id,
        divergence=summary(joined(parts)),
        chunks=len(tokens),
        seconds=time.perf_counter() - began,
    )


def memory_bytes(model: Model) -> int:
    """Bytes of logits that `against` holds, two buffers of rows."""
    size = int(model.config["vocab_size"])
    return 2 * rows_held(size) * 4 * int(-(-size // 32) * 32)


def check_same(model: Model, base: Model) -> None:
    """ImageError unless both images can be of one model: its shape and every token's bytes."""
    ours, theirs = model.config, base.config
    if ours["vocab_size"] != theirs["vocab_size"]:
        raise ImageError(
            f"{base.path}: has a vocabulary of {theirs['vocab_size']:,} tokens, {model.path} "
            f"one of {ours['vocab_size']:,}; compare images of one model"
        )
    for name in _SHAPE:
        if ours[name] != theirs[name]:
            raise ImageError(
                f"{base.path}: is another model ({name} {theirs[name]:,}, in {model.path} "
                f"{ours[name]:,}); compare images of one model"
            )
    tokens = range(ours["vocab_size"])
    other = next((n for n in tokens if _piece(model, n) != _piece(base, n)), None)
    if other is not None:
        raise ImageError(
            f"{base.path}: has another vocabulary than {model.path} (token {other}); compare "
            "images of one model"
        )


def _piece(model: Model, token: int) -> bytes:
    return model.image.decode(token, True)
