"""Which type to build for a board, before building: sizes, predicted speed, what accuracy is
known to cost, and three picks with their reasons.  Nothing is quantized."""

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
from qedge.toolkit.make.build import sized, tensor_table
from qedge.toolkit.make.predict import Prediction, kv_bytes, of_entries, predict
from qedge.toolkit.make.vocabulary_table import pack as pack_vocabulary
from qedge.toolkit.quant.recipe import Recipe
from qedge.toolkit.source.model import SourceModel
from qedge.toolkit.source.opening import open_source

ORDER = ("f32", "f16", "q8_0", "q4_0")  # the most exact first
USUAL_CONTEXT = 2048  # tokens that "auto" asks for, if the model was trained for them
USEFUL_CONTEXT = 512  # a type with less is picked only where every type has less
NATS_WORTH = 3.0
READABLE = 5.0  # tokens/s: below it a balance is struck for speed

# Perplexity on WikiText-2, in percent over f16: Llama 3 8B in llama.cpp's types (6.2332 f16,
# 6.2343 q8_0, 6.7001 q4_0: the LLaMA 3 8b scoreboard in llama.cpp's README on perplexity).
PERPLEXITY_PERCENT = {"f32": None, "f16": 0.0, "q8_0": 0.02, "q4_0": 7.49}
ACCURACY = {
    "f32": "rounds no weight; its perplexity was not measured apart from f16's",
    "f16": "perplexity 6.2332 (Llama 3 8B), the reference",
    "q8_0": "perplexity 6.2343 where f16 has 6.2332 (Llama 3 8B): +0.02 %",
    "q4_0": "perplexity 6.7001 where f16 has 6.2332 (Llama 3 8B): +7.5 %; 28.76 where q8_0 has "
    "22.60 (SmolLM2-135M): +27 %",
}
# Parameters below which neither those figures nor a speed by memory alone say anything.
TINY = 20_000_000
# Of a tiny model, what is known: commander's, from examples/commander/README.md.
TINY_ACCURACY = {
    "f32": "rounds no weight",
    "f16": "not measured for so small a model",
    "q8_0": "not measured for so small a model; commander (0.6 M parameters) had 100 % right "
    "in f32, 99.95 % in q8_0",
    "q4_0": "not measured for so small a model; commander (0.6 M parameters) had 99.95 % right "
    "in q4_0, 100 % in f32; `qedge eval` of both on your own text tells",
}
TINY_NOTE = (
    "a model of {parameters:,} parameters: predicted speeds count memory alone, and are too "
    "high for it; measure it (qedge bench)"
)
# The smallest type that holds what a file's own type holds. bf16 has 8 bits of significand and
# f16 11: what f16 loses of it lies below 6e-8.
_HOLDS = {"F32": "f32", "F16": "f16", "BF16": "f16", "Q8_0": "q8_0", "Q4_0": "q4_0"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One type on the board. Sizes are bytes."""

    quant: str
    embedding: str
    plan: MemoryPlan
    lacks: str | None  # None: it fits
    longest: int  # context that would fit; 0: none
    prediction: Prediction
    deep: float | None  # tokens/s with a full context
    accuracy: str
    perplexity_percent: float | None  # Llama 3 8B's over f16; None: says nothing of this model
    kl: float | None = None  # of this model, measured: nats a token

    @property
    def fits(self) -> bool:
        return self.lacks is None


@dataclass(frozen=True, slots=True)
class Pick:
    """A type to take, and why."""

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
    source: SourceModel, vocabulary: bytes, board: Board, quant: str, context: int | None
) -> Choice:
    recipe = Recipe.of(source, quant, None, None)
    entries = tensor_table(source, recipe, board)
    size = sized(source, entries, vocabulary, board)
    config, tiny = source.config, _parameters(source) < TINY
    longest = longest_context(config, board, recipe.kv, size, config.longest)
    wanted = context or min(config.longest, USUAL_CONTEXT)
    tokens = wanted if context or not longest else min(wanted, longest)
    planned = memory_plan(config, board, tokens, recipe.kv, size)
    weights = of_entries(entries)
    full = predict(board, weights, planned.image_bytes, kv_bytes(config, recipe.kv, tokens))
    return Choice(
        quant=quant,
        embedding=recipe.embedding,
        plan=planned,
        lacks=Room.of(board).lacks(planned),
        longest=longest,
        prediction=predict(board, weights, planned.image_bytes),
        deep=full.tokens_per_second,
        accuracy=(TINY_ACCURACY if tiny else ACCURACY)[quant],
        perplexity_percent=None if tiny else PERPLEXITY_PERCENT[quant],
    )


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
    return replace(choice, accuracy=told, perplexity_percent=None, kl=found["kl_mean"])


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
    """What to build of a model for a board. With "auto" each type has 2,048 tokens, or what the
    model was trained for, or the most that fits. measured: the table that `qedge compare` kept
    of the model (quality/measured.py), which then counts in place of other models' figures.

    ImageError for a bad model, UsageError for a bad context, BudgetError when nothing fits: it
    names what would."""
    source = open_source(model, tokenizer)
    if context != "auto":
        check_context(source.config, context)
    wanted = context if isinstance(context, int) else None
    vocabulary = pack_vocabulary(source.vocabulary)
    choices = tuple(_choice(source, vocabulary, board, quant, wanted) for quant in ORDER)
    if measured is not None:
        choices = tuple(_with_measured(choice, measured) for choice in choices)
    if not any(choice.fits for choice in choices):
        raise BudgetError(_nothing(source, vocabulary, board, choices, wanted))
    stored = source.stored_type()
    useful = min(USEFUL_CONTEXT, wanted or source.config.longest)
    picks = _picks(choices, stored, useful)
    notes = []
    if measured is not None:
        notes.append(
            f"accuracy is that of this model as `qedge compare` measured it, over "
            f"{measured['chunks']:,} chunks of {measured['text']}"
        )
    speeds = any(choice.prediction.tokens_per_second for choice in choices)
    if speeds and (count := _parameters(source)) < TINY:
        notes.append(TINY_NOTE.format(parameters=count))
    return Advice(source.config.name, board.name, stored, choices, picks, tuple(notes))


def _picks(choices: tuple[Choice, ...], stored: str, useful: int) -> tuple[Pick, ...]:
    """A type that is more exact than the file is never picked: it holds nothing more."""
    enough = ORDER.index(_HOLDS.get(stored, "q8_0"))
    able = [choice for choice in choices[enough:] if choice.fits]
    if not able:  # a tiny model in q4_0, with its embedding in q8_0
        able = [choice for choice in choices if choice.fits]
    able = [choice for choice in able if choice.plan.context >= useful] or able
    exact, small = able[0], min(able, key=lambda choice: choice.plan.image_bytes)
    middle = next((choice for choice in able if choice.quant == "q8_0"), small)
    if known := [
        (worth(one.plan.image_bytes, one.kl), one) for one in able if one.kl is not None
    ]:
        middle = min(known, key=lambda pair: pair[0])[1]
    picks = [
        Pick("accuracy", exact.quant, _why_exact(exact, choices, stored, enough)),
        _balance(exact, middle, small),
        Pick("smallest", small.quant, _why_small(small, exact)),
    ]
    return tuple(picks)


def _why_exact(exact: Choice, choices: tuple[Choice, ...], stored: str, enough: int) -> str:
    at = ORDER.index(exact.quant)
    if at > enough:
        tight = choices[at - 1]
        why = tight.lacks or f"leaves room for {tight.plan.context:,} tokens only"
        return f"the most exact that fits: {tight.quant} {why}"
    if stored in _HOLDS:
        return f"holds all that the file does, which is {stored}"
    return f"the file is {stored} already, and {exact.quant} is finer"


def _why_small(small: Choice, exact: Choice) -> str:
    size = show_size(small.plan.image_bytes)
    if small.quant == exact.quant:
        return f"{size}: nothing smaller is made of this file"
    return f"{size}, {_share(small, exact)}; {small.accuracy}"


def _share(one: Choice, other: Choice) -> str:
    return f"{one.plan.image_bytes / other.plan.image_bytes:.0%} of {other.quant}'s bytes"


def _balance(exact: Choice, middle: Choice, small: Choice) -> Pick:
    """q8_0, which costs next to nothing, unless it is slow to read along and q4_0 is faster."""
    speed, faster = middle.prediction.tokens_per_second, small.prediction.tokens_per_second
    if speed and faster and speed < READABLE and faster > speed:
        gain = f"{faster:.1f} tokens/s where {middle.quant} has {speed:.1f}"
        return Pick("balance", small.quant, f"{gain}; {small.accuracy}")
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
    able = [
        other.name
        for other in others
        if other.name != board.name
        and _choice(source, vocabulary, other, least.quant, context).fits
    ]
    cures.append(f"it would fit {', '.join(able)}" if able else "take a smaller model")
    return f"{found}; {'; '.join(cures)}"
