"""A type for every matrix of a model within a budget: the least loss for its bytes, or the
fewest bytes for a loss (`--quant auto`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qedge.runtime.errors import BudgetError, UsageError
from qedge.runtime.session import RESIDENT_BYTES
from qedge.runtime.sizes import show_size
from qedge.toolkit.allocate.sensitivity import KINDS, Progress, Sensitivity, sensitivity
from qedge.toolkit.allocate.solver import Choice, solve
from qedge.toolkit.board import Board
from qedge.toolkit.make.budget import MemoryPlan, Room, check_context, memory_plan
from qedge.toolkit.make.predict import of_entries, predict
from qedge.toolkit.make.vocabulary_table import pack as pack_vocabulary
from qedge.toolkit.make.write import sized, tensor_table
from qedge.toolkit.quant.quantize import layout_for, packed_bytes
from qedge.toolkit.quant.recipe import Recipe, matrices_of
from qedge.toolkit.source.model import SourceModel
from qedge.toolkit.source.opening import open_source

AUTO = "auto"
USUAL_CONTEXT = 2048  # tokens, where RAM is shared between weights and context
_TRIES = 60  # budgets that are tried for a loss or a rate


@dataclass(frozen=True, slots=True)
class Budget:
    """What an image may take; None: not limited by that."""

    flash_bytes: int | None = None  # the image
    ram_bytes: int | None = None  # resident: image (but on a microcontroller), arena, runtime
    tokens_per_second: float | None = None  # predicted, decode at depth 0: at least
    kl: float | None = None  # nats a token that the weights lose, by estimate: at most

    def is_empty(self) -> bool:
        given = (self.flash_bytes, self.ram_bytes, self.tokens_per_second, self.kl)
        return all(one is None for one in given)


@dataclass(frozen=True, slots=True)
class Allocated:
    """A recipe, the bytes of its image, what its weights lose by the estimate, and what no
    other recipe of so many bytes can lose less than, by the same estimate."""

    recipe: Recipe
    plan: MemoryPlan
    loss: float
    bound: float

    @property
    def facts(self) -> dict[str, float | int]:
        """What a recipe's file tells people."""
        return {
            "image_bytes": self.plan.image_bytes,
            "estimated_kl": self.loss,
            "bound": self.bound,
        }


def allocate(
    model: Path,
    board: Board,
    budget: Budget,
    *,
    context: int | str = "auto",
    kv: str | None = None,
    tokenizer: Path | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Allocated:
    """The best recipe of a model for a board within all that the budget says; without any, the
    best that the board's own flash or RAM holds.

    BudgetError when nothing fits or no recipe is so exact, UsageError for a budget that means
    nothing on the board."""
    source = open_source(model, tokenizer)
    _check(budget)
    layout = _Layout(source, board, context, kv or "q8_0")
    limit = layout.limit(budget)
    found = sensitivity(model, source, tokenizer=tokenizer, progress=progress, cache=cache)
    items = layout.items(found)
    if budget.kl is not None:
        limit = _least(layout, items, budget.kl, limit)
    if limit is None:
        raise UsageError(
            f"--quant auto: {board.name} limits nothing; say how small or how exact: "
            "--fit-flash, --fit-ram, --min-tokens-s or --max-kl"
        )
    return layout.within(items, limit)


def _check(budget: Budget) -> None:
    for option, given in (
        ("--fit-flash", budget.flash_bytes),
        ("--fit-ram", budget.ram_bytes),
        ("--min-tokens-s", budget.tokens_per_second),
        ("--max-kl", budget.kl),
    ):
        if given is not None and not 0 < given < float("inf"):
            raise UsageError(f"{option} {given}: must be above zero")


class _Layout:
    """What types mean in bytes of an image for a board."""

    def __init__(self, source: SourceModel, board: Board, context: int | str, kv: str) -> None:
        self._source, self._board, self._kv = source, board, kv
        self._vocabulary = pack_vocabulary(source.vocabulary)
        if context != "auto":
            check_context(source.config, context)
        self._context = (
            min(USUAL_CONTEXT, source.config.longest) if context == "auto" else int(context)
        )
        self.names = list(matrices_of(source))

    def recipe(self, chosen: Sequence[int], loss: float = 0.0) -> Recipe:
        types = {name: KINDS[number] for name, number in zip(self.names, chosen)}
        return Recipe(AUTO, types["token_embd.weight"], self._kv, types, loss)

    def items(self, found: Sensitivity) -> list[list[Choice]]:
        """A choice for each kind of each matrix."""
        return [
            [Choice(self._bytes(name, kind), found.losses[name][kind]) for kind in KINDS]
            for name in self.names
        ]

    def limit(self, budget: Budget) -> int | None:
        """Bytes of the image at most; None: as many as it takes."""
        limits = []
        if budget.flash_bytes is not None:
            limits.append(budget.flash_bytes)
        if budget.ram_bytes is not None:
            limits.append(self._of_ram(budget.ram_bytes))
        if budget.tokens_per_second is not None:
            limits.append(self._of_rate(budget.tokens_per_second))
        room = Room.of(self._board)
        if room.slot is not None:
            limits.append(room.slot)
        elif self._board.linux is not None and self._board.ram_bytes:
            limits.append(self._of_ram(self._board.ram_bytes - room.system))
        return min(limits, default=None)

    def plan(self, recipe: Recipe) -> MemoryPlan:
        entries = tensor_table(self._source, recipe, self._board)
        size = sized(self._source, entries, self._vocabulary, self._board, recipe)
        return memory_plan(self._source.config, self._board, self._context, self._kv, size)

    def within(self, items: Sequence[Sequence[Choice]], limit: int) -> Allocated:
        """The best in an image of at most so many bytes."""
        smallest = [min(range(len(row)), key=lambda n: row[n].size) for row in items]
        plan = self.plan(self.recipe(smallest))
        if plan.image_bytes > limit:
            raise BudgetError(
                f"{self._source.config.name}: in the smallest types the image takes "
                f"{show_size(plan.image_bytes)}, {show_size(limit)} are allowed; take a "
                "smaller model or context"
            )
        besides = plan.image_bytes - sum(row[n].size for row, n in zip(items, smallest))
        room = limit - besides
        while True:  # the hash tree grows with the rest
            solved = solve(items, room)
            recipe = self.recipe(solved.chosen, solved.loss)
            plan = self.plan(recipe)
            if plan.image_bytes <= limit:
                return Allocated(recipe, plan, solved.loss, solved.bound)
            room -= plan.image_bytes - limit

    def _bytes(self, name: str, kind: str) -> int:
        tensor = self._source.tensors[name]
        layout = layout_for(kind, self._board.layout_rows)
        return packed_bytes(kind, layout, tensor.rows, tensor.columns)

    def _of_ram(self, ram: int) -> int:
        """Bytes of the image beside arena and runtime."""
        plan = memory_plan(self._source.config, self._board, self._context, self._kv, 0)
        if plan.bare:
            if plan.arena_bytes > ram:
                raise BudgetError(
                    f"{self._source.config.name}: an arena for {self._context:,} tokens takes "
                    f"{show_size(plan.arena_bytes)}, {show_size(ram)} are allowed; weights "
                    "stay in flash here: give a shorter --context"
                )
            return 1 << 62
        left = ram - plan.arena_bytes - RESIDENT_BYTES
        if left <= 0:
            raise BudgetError(
                f"{self._source.config.name}: the arena for {self._context:,} tokens and the "
                f"runtime take {show_size(plan.arena_bytes + RESIDENT_BYTES)}, "
                f"{show_size(ram)} are allowed; give a shorter --context"
            )
        return left

    def _of_rate(self, rate: float) -> int:
        """Bytes of the image that is read so often a second, an embedding that is looked up
        alone left out of the reading."""
        recipe = self.recipe([KINDS.index("q8_0")] * len(self.names))
        entries = tensor_table(self._source, recipe, self._board)
        plan = self.plan(recipe)
        expected = predict(self._board, of_entries(entries), plan.image_bytes)
        if expected.tokens_per_second is None:
            raise UsageError(
                f"--min-tokens-s {rate:g}: how fast {self._board.name} reads its memory is not "
                "known; take --fit-flash, and measure with qedge bench"
            )
        bandwidth = expected.tokens_per_second * expected.read_bytes_per_token
        unread = plan.image_bytes - expected.read_bytes_per_token
        return int(bandwidth / rate) + unread


def _least(
    layout: _Layout, items: Sequence[Sequence[Choice]], kl: float, limit: int | None
) -> int:
    """The fewest bytes of an image that loses no more. BudgetError when the limit allows
    none."""
    largest = [max(range(len(row)), key=lambda n: row[n].size) for row in items]
    high = layout.plan(layout.recipe(largest)).image_bytes
    high = high if limit is None else min(high, limit)
    best = layout.within(items, high)
    if best.loss > kl:
        raise BudgetError(
            f"--max-kl {kl:g}: within {show_size(high)} the least loss is {best.loss:.4f} nats "
            "a token; allow more of either, or take f16"
        )
    smallest = [min(range(len(row)), key=lambda n: row[n].size) for row in items]
    low = layout.plan(layout.recipe(smallest)).image_bytes
    for _ in range(_TRIES):
        if high - low < 64:
            break
        middle = (low + high) // 2
        found = layout.within(items, middle)
        if found.loss <= kl:
            high = min(middle, found.plan.image_bytes)
        else:
            low = middle
    return high
