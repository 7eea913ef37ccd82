"""Which format to build for a board, before building: sizes, predicted speed, what is known of
the loss, and three picks with their reasons.  Nothing is quantized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qedge.runtime.errors import BudgetError
from qedge.runtime.sizes import show_size
from qedge.toolkit.board import Board, every
from qedge.toolkit.make.budget import (
    MemoryPlan,
    Room,
    check_context,
    longest_context,
    memory_plan,
)
from qedge.toolkit.make.predict import Prediction, kv_bytes, of_entries, predict
from qedge.toolkit.make.vocabulary_table import pack as pack_vocabulary
from qedge.toolkit.make.write import refused, sized, tensor_table
from qedge.toolkit.quant.recipe import KEEP, SMOLLM2_KL, Recipe, own_precision, usual
from qedge.toolkit.source.model import SourceModel
from qedge.toolkit.source.opening import open_source

USUAL_CONTEXT = 2048  # tokens that "auto" asks for, if the model was trained for them
USEFUL_CONTEXT = 512  # a format with less is picked only where every one has less
NATS_WORTH = 3.0
READABLE = 5.0  # tokens/s: below it a balance is struck for speed
POOR = 1.0  # nats a token: above it a format is picked only where nothing else fits

# Parameters below which neither SmolLM2's figures nor a speed by memory alone say anything.
TINY = 20_000_000
# Of a tiny model, what is known: commander's, from examples/commander/README.md.
TINY_ACCURACY = {
    "q8_0": "commander (0.6 M parameters) had 100 % right in f32, 99.95 % in q8_0",
    "q4_0": "commander (0.6 M parameters) had 99.95 % right in q4_0, 100 % in f32; `qedge "
    "eval` of both on your own text tells",
}
TINY_NOTE = (
    "a model of {parameters:,} parameters: predicted speeds count memory alone, and are too "
    "high for it; measure it (qedge bench)"
)
ANOTHER_NOTE = (
    "~ KL, nats a token, was measured of SmolLM2-135M, not of this model: a larger one loses "
    "less; `qedge compare` measures it"
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One format on the board. Sizes are bytes, losses KL in nats a token."""

    quant: str
    embedding: str
    plan: MemoryPlan
    lacks: str | None  # None: it fits
    longest: int  # context that would fit; 0: none
    prediction: Prediction
    deep: float | None  # tokens/s with a full context
    accuracy: str
    reference: float | None  # SmolLM2-135M's loss; None: says nothing of this model
    kl: float | None = None  # this model's own loss, where it was measured

    @property
    def fits(self) -> bool:
        return self.lacks is None

    @property
    def loss(self) -> float | None:
        return self.reference if self.kl is None else self.kl


@dataclass(frozen=True, slots=True)
class Pick:
    """A format to take, and why."""

    goal: str
    quant: str
    reason: str


@dataclass(frozen=True, slots=True)
class Advice:
    """All choices, and what to take of them."""

    model: str
    board: str
    stored: str  # the type that most of the file's weights have
    choices: tuple[Choice, ...]
    picks: tuple[Pick, ...]
    notes: tuple[str, ...] = ()


def _choice(
    source: SourceModel, vocabulary: bytes, board: Board, recipe: Recipe, context: int | None
) -> Choice:
    entries = tensor_table(source, recipe, board)
    size = sized(source, entries, vocabulary, board)
    config = source.config
    longest = longest_context(config, board, recipe.kv, size, config.longest)
    wanted = context or min(config.longest, USUAL_CONTEXT)
    tokens = wanted if context or not longest else min(wanted, longest)
    planned = memory_plan(config, board, tokens, recipe.kv, size)
    weights = of_entries(entries)
    full = predict(board, weights, planned.image_bytes, kv_bytes(config, recipe.kv, tokens))
    accuracy, reference = _known_loss(source, recipe.quant)
    return Choice(
        quant=recipe.quant,
        embedding=recipe.embedding,
        plan=planned,
        lacks=Room.of(board).lacks(planned),
        longest=longest,
        prediction=predict(board, weights, planned.image_bytes),
        deep=full.tokens_per_second,
        accuracy=accuracy,
        reference=reference,
    )


def _known_loss(source: SourceModel, quant: str) -> tuple[str, float | None]:
    """What other models tell of a format's loss, in words and as SmolLM2's KL."""
    tiny = _parameters(source) < TINY
    if quant == own_precision(source.stored_type()):
        return "the file's own precision", None if tiny else 0.0
    if tiny:
        unknown = "not measured for so small a model"
        return "; ".join(filter(None, (unknown, TINY_ACCURACY.get(quant)))), None
    return f"KL {SMOLLM2_KL[quant]:.4f} (SmolLM2-135M)", SMOLLM2_KL[quant]


def _with_measured(choice: Choice, table: Mapping[str, Any]) -> Choice:
    """A choice with what `qedge compare` measured of this very model, if it did."""
    found = table["formats"].get(choice.quant)
    if found is None or choice.quant == table["base"]:
        told = f"{table['base']}, which the others were compared with"
        return choice if found is None else replace(choice, accuracy=told, kl=0.0)
    told = (
        f"KL {found['kl_mean']:.4f}, {found['top1']:.1%} of the top tokens the same as "
        f"{table['base']}'s, perplexity {found['perplexity']:.2f} for "
        f"{found['perplexity_base']:.2f} (measured)"
    )
    return replace(choice, accuracy=told, kl=found["kl_mean"])


def worth(image_bytes: int, kl: float) -> float:
    """What a balance is struck by, the less the better: a third of a nat is worth a size e
    times as large, so 1 % of the bytes 0.0033 nats."""
    return math.log(image_bytes) + NATS_WORTH * kl


def _parameters(source: SourceModel) -> int:
    return sum(tensor.rows * tensor.columns for tensor in source.tensors.values())


def advise(
    model: Path,
    board: Board,
    context: int | str = "auto",
    tokenizer: Path | None = None,
    measured: Mapping[str, Any] | None = None,
) -> Advice:
    """What to build of a model for a board. With "auto" each format has 2,048 tokens, or what
    the model was trained for, or the most that fits. measured: the table that `qedge compare`
    kept of the model (quality/measured.py), which then counts in place of SmolLM2's figures.

    ImageError for a bad model, UsageError for a bad context, BudgetError when nothing fits: it
    names what would."""
    source = open_source(model, tokenizer)
    if context != "auto":
        check_context(source.config, context)
    wanted = context if isinstance(context, int) else None
    vocabulary = pack_vocabulary(source.vocabulary)
    stored = source.stored_type()
    notes: list[str] = []
    choices: tuple[Choice, ...] = ()
    for quant in usual(own_precision(stored)):
        recipe = Recipe.of(source, quant, None, None)
        if (why := refused(recipe, board)) is not None:
            notes.append(f"{quant} is left out: {why}")
            continue
        choices += (_choice(source, vocabulary, board, recipe, wanted),)
    if measured is not None:
        choices = tuple(_with_measured(choice, measured) for choice in choices)
    if not any(choice.fits for choice in choices):
        raise BudgetError(_nothing(source, vocabulary, board, choices, wanted))
    useful = min(USEFUL_CONTEXT, wanted or source.config.longest)
    picks = _picks(choices, stored, useful)
    if measured is not None:
        notes.append(
            f"accuracy is that of this model as `qedge compare` measured it, over "
            f"{measured['chunks']:,} chunks of {measured['text']}"
        )
    if any(choice.kl is None and choice.reference for choice in choices):
        notes.append(ANOTHER_NOTE)
    speeds = any(choice.prediction.tokens_per_second for choice in choices)
    if speeds and (count := _parameters(source)) < TINY:
        notes.append(TINY_NOTE.format(parameters=count))
    return Advice(source.config.name, board.name, stored, choices, picks, tuple(notes))


def _picks(choices: tuple[Choice, ...], stored: str, useful: int) -> tuple[Pick, ...]:
    able = [choice for choice in choices if choice.fits]
    able = [choice for choice in able if choice.plan.context >= useful] or able
    good = [choice for choice in able if (choice.loss or 0.0) <= POOR] or able
    exact, small = able[0], min(good, key=lambda choice: choice.plan.image_bytes)
    return (
        Pick("accuracy", exact.quant, _why_exact(exact, choices, stored)),
        _balance(exact, good),
        Pick("smallest", small.quant, _why_small(small, exact)),
    )


def _why_exact(exact: Choice, choices: tuple[Choice, ...], stored: str) -> str:
    if at := choices.index(exact):
        tight = choices[at - 1]
        why = tight.lacks or f"leaves room for {tight.plan.context:,} tokens only"
        return f"the most exact that fits: {tight.quant} {why}"
    if exact.quant == KEEP:
        return f"the file is {stored} already, and is taken over with its very values"
    if exact.quant == own_precision(stored):
        return f"holds all that the file does, which is {stored}"
    return f"the file is {stored} already, and {exact.quant} is finer"


def _why_small(small: Choice, exact: Choice) -> str:
    size = show_size(small.plan.image_bytes)
    if small.quant == exact.quant:
        return f"{size}: nothing smaller is made of this file"
    return f"{size}, {_share(small, exact)}; {small.accuracy}"


def _share(one: Choice, other: Choice) -> str:
    return f"{one.plan.image_bytes / other.plan.image_bytes:.0%} of {other.quant}'s bytes"


def _balance(exact: Choice, good: list[Choice]) -> Pick:
    """What is worth most, unless it is slow to read along and another is faster. Where no loss
    is known, what loses next to nothing in any model."""
    known = [
        (worth(one.plan.image_bytes, one.loss), one) for one in good if one.loss is not None
    ]
    if known:
        middle = min(known, key=lambda pair: pair[0])[1]
    else:
        middle = next((one for one in good if one.quant in (KEEP, "q8_0")), good[0])
    fast = max(good, key=lambda one: one.prediction.tokens_per_second or 0.0)
    speed, faster = middle.prediction.tokens_per_second, fast.prediction.tokens_per_second
    if speed and faster and speed < READABLE and faster > speed:
        gain = f"{faster:.1f} tokens/s where {middle.quant} has {speed:.1f}"
        return Pick("balance", fast.quant, f"{gain}; {fast.accuracy}")
    if middle.quant == exact.quant:
        return Pick("balance", middle.quant, "the accuracy pick is it already")
    return Pick("balance", middle.quant, f"{_share(middle, exact)}; {middle.accuracy}")


def _nothing(
    source: SourceModel,
    vocabulary: bytes,
    board: Board,
    choices: tuple[Choice, ...],
    context: int | None,
) -> str:
    """Why nothing fits, and what would: a shorter context, more RAM, another board."""
    least = min(choices, key=lambda choice: choice.plan.image_bytes)
    found = f"{source.config.name} in {least.quant} {least.lacks}"
    shorter = max(choices, key=lambda choice: choice.longest)
    if shorter.longest:
        return f"{found}; try --context {shorter.longest} with --quant {shorter.quant}"
    cures = []
    if board.device is None:
        ram = 256 << 20
        while Room.holding(board, ram).lacks(least.plan) is not None:
            ram *= 2
        cures.append(f"with {show_size(ram)} of RAM (--ram {ram >> 20}M) it would")
    others = [
        other for other in every() if other.device or (other.linux and not other.linux.emulator)
    ]
    recipe = Recipe.of(source, least.quant, None, None)
    able = [
        other.name
        for other in others
        if other.name != board.name
        and refused(recipe, other) is None
        and _choice(source, vocabulary, other, recipe, context).fits
    ]
    cures.append(f"it would fit {', '.join(able)}" if able else "take a smaller model")
    return f"{found}; {'; '.join(cures)}"
