"""A chunk of tokens through models of one vocabulary, side by side: what their logits say of
each token that comes. The first model's logits are computed once, whatever stands beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from qedge.runtime._engine import EngineError
from qedge.runtime.errors import BudgetError, ImageError
from qedge.runtime.model import Model
from qedge.toolkit.quality import _rows

CHUNK = 512  # tokens, as llama.cpp's tool has it
LEAST_CHUNK = 4
ROWS_BYTES = 32 << 20  # of one model's logits that are held at a time, at most
_MOST_ROWS = 128

Doubles = npt.NDArray[np.float64]
NLL_BASE, NLL, KL, SAME_TOP = range(4)  # columns, as rows.h has them


def rows_held(vocab_size: int) -> int:
    """Rows of logits that a model's buffer holds."""
    return max(1, min(_MOST_ROWS, ROWS_BYTES // (4 * vocab_size)))


def chunks_of(
    model: Model, text: bytes, context: int, most: int | None = None
) -> npt.NDArray[np.int32]:
    """A text's chunks by llama.cpp's rule, without overlap, each with BOS over its first token
    if the model begins prompts so: int32 (chunks, context), `most` at most.

    BudgetError when the model cannot hold a chunk; ImageError when the text is not UTF-8 or too
    short for one."""
    if not LEAST_CHUNK <= context <= model.context:
        raise BudgetError(
            f"chunks of {context} tokens do not fit: give --context from {LEAST_CHUNK} to "
            f"{model.context}"
        )
    tokens = model.tokenize(text, bos=True)
    count = len(tokens) // context
    if count == 0:
        raise ImageError(
            f"the text has {len(tokens)} tokens, fewer than one chunk of {context}; give a "
            f"longer one"
        )
    count = count if most is None else min(count, max(1, most))
    found = np.array(tokens[: count * context], np.int32).reshape(count, context)
    vocab = model.image.vocab
    if vocab["add_bos"] and vocab["bos"] is not None:
        found[:, 0] = vocab["bos"]
    return found


def scored(context: int) -> int:
    """Positions of a chunk that are scored: those behind its first half."""
    return context - 1 - context // 2


class Scorer:
    """Buffers and threads for chunks through `models`: the base first, when there are several.
    Memory: two buffers of rows_held logits, whatever the number of models."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = models
        self._size = models[0].config["vocab_size"]
        self._held = rows_held(self._size)
        shape = (self._held, -(-self._size // 32) * 32)
        self._base = np.empty(shape, np.float32) if len(models) > 1 else None
        self._rows = np.empty(shape, np.float32)
        self._threads = max(1, models[0].threads)
        self._pool = ThreadPoolExecutor(self._threads)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def chunk(self, tokens: npt.NDArray[np.int32]) -> Doubles:
        """(models but the base, scored positions, 4): columns NLL_BASE, NLL, KL, SAME_TOP; of
        one model alone (1, …) with its NLL. ImageError when a logit is not finite."""
        ids: list[int] = tokens.tolist()
        half, last = len(ids) // 2, len(ids) - 1
        others = self._models if self._base is None else self._models[1:]
        found = np.zeros((len(others), last - half, _rows.COLUMNS))
        for model in self._models:
            model.reset()
            model.evaluate(ids[:half])
        for start, stop in self._spans(half, last):
            given, coming = ids[start:stop], tokens[start + 1 : stop + 1]
            if self._base is not None:
                _logits(self._models[0], given, self._base)
            for number, model in enumerate(others):
                _logits(model, given, self._rows)
                self._compare(coming, found[number, start - half : stop - half])
        return found

    def _spans(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        for start in range(first, last, self._held):
            yield start, min(start + self._held, last)

    def _compare(self, coming: npt.NDArray[np.int32], out: Doubles) -> None:
        count = len(coming)
        share = -(-count // self._threads)
        jobs: list[Any] = []
        for first in range(0, count, share):
            words = (self._size, coming, first, min(first + share, count), out)
            jobs.append(self._pool.submit(_rows.compare, self._base, self._rows, *words))
        for job in jobs:
            job.result()


def _logits(model: Model, ids: Sequence[int], rows: npt.NDArray[np.float32]) -> None:
    """The logits of ids, appended to the model's tokens, one row each."""
    try:
        model.engine.eval(ids, rows[: len(ids)])
    except EngineError as error:
        raise ImageError(f"{model.path}: {error}") from None
