"""How many multiple-choice tasks a model answers right: the answer with the largest mean
log-probability of its own tokens is the model's (llama.cpp's acc_norm)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qedge.runtime._engine import EngineError
from qedge.runtime.errors import BudgetError, ImageError
from qedge.runtime.model import Model
from qedge.toolkit.quality import _rows
from qedge.toolkit.quality.scoring import NLL, Doubles, rows_held
from qedge.toolkit.quality.statistics import wilson
from qedge.toolkit.quality.tasks import Task, TaskFile, part_of

_TRAILING = 3  # tokens behind the gap, below which WinoGrande's choices are scored themselves


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Tasks that were answered right; low and high: the 95 % interval (Wilson), chance: what
    guessing would give."""

    kind: str
    tasks: int
    right: int
    accuracy: float
    low: float
    high: float
    chance: float
    skipped: int  # lines of the file that are no task
    seconds: float


def answer(
    model: Model,
    found: TaskFile,
    count: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Accuracy:
    """Lets the model answer `count` of a file's tasks (all when None).

    ImageError when a task's text is not UTF-8, BudgetError when one does not fit."""
    began = time.perf_counter()
    tasks = part_of(found, count)
    asker, right = _Asker(model), 0
    for number, task in enumerate(tasks, 1):
        right += asker.best(task, number) in task.right
        if progress:
            progress(number, len(tasks), right / number)
    low, high = wilson(right, len(tasks))
    return Accuracy(
        kind=found.kind,
        tasks=len(tasks),
        right=right,
        accuracy=right / len(tasks),
        low=low,
        high=high,
        chance=math.fsum(len(task.right) / len(task.texts) for task in tasks) / len(tasks),
        skipped=found.skipped,
        seconds=time.perf_counter() - began,
    )


class _Asker:
    """A model, and a buffer for its logits."""

    def __init__(self, model: Model) -> None:
        self._model, self._size = model, model.config["vocab_size"]
        self._held = rows_held(self._size)
        self._rows = np.empty((self._held, -(-self._size // 32) * 32), np.float32)

    def best(self, task: Task, number: int) -> int:
        """The model's choice; the first of equal ones."""
        try:
            texts = [self._model.tokenize(text, bos=True) for text in task.texts]
            heads = [len(self._model.tokenize(head, bos=True)) for head in task.heads]
        except ImageError as error:
            raise ImageError(f"task {number}: {error}") from None
        longest = max(map(len, texts))
        if longest > self._model.context or min(map(len, texts)) < 2:
            if longest > self._model.context:
                raise BudgetError(
                    f"task {number} has {longest:,} tokens, the context holds "
                    f"{self._model.context:,}; give --context {longest}"
                )
            raise ImageError(f"task {number}: has an answer of no tokens; nothing to score")
        common = _common(texts)
        starts, ends = _spans(texts, heads, common)
        self._model.reset()
        self._model.evaluate(texts[0][: common - 1])
        scores = []
        for ids, start, end in zip(texts, starts, ends):
            self._model.engine.rewind(common - 1)
            says = self._nll(ids[common - 1 : end])  # of ids[common:end]
            scores.append(-math.fsum(says[start - common :]) / (end - start))
        return max(range(len(scores)), key=lambda n: scores[n])

    def _nll(self, ids: Sequence[int]) -> Doubles:
        """-log p of all but the first of these tokens, each behind those before it."""
        coming = np.array(ids[1:], np.int32)
        out = np.zeros((len(coming), _rows.COLUMNS))
        for start in range(0, len(coming), self._held):
            stop = min(start + self._held, len(coming))
            try:
                self._model.engine.eval(ids[start:stop], self._rows[: stop - start])
            except EngineError as error:
                raise ImageError(f"{self._model.path}: {error}") from None
            part = slice(start, stop)
            _rows.compare(
                None, self._rows, self._size, coming[part], 0, stop - start, out[part]
            )
        return out[:, NLL]


def _common(texts: Sequence[Sequence[int]]) -> int:
    """Tokens that all texts begin with: one at least, whatever it is, for logits to score the
    next by, and not all of any."""
    most = min(map(len, texts)) - 1
    common = 0
    while common < most and len({ids[common] for ids in texts}) == 1:
        common += 1
    return max(1, common)


def _spans(
    texts: Sequence[Sequence[int]], heads: Sequence[int], common: int
) -> tuple[list[int], list[int]]:
    """Which tokens of each text are scored: from, to. All behind what is common; of WinoGrande
    those behind the choice where there are more than three, but the last."""
    ends = [len(ids) for ids in texts]
    if not heads:
        return [common] * len(texts), ends
    behind = all(end - common > _TRAILING for end in ends)
    starts = [
        min(max(head, common), end - 1) if behind else common for head, end in zip(heads, ends)
    ]
    return starts, [end - (end - start > 1) for start, end in zip(starts, ends)]
