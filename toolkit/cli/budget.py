"""--quant auto: the options that say what an image may take, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from qedge.runtime import UsageError
from qedge.toolkit.board import Board

_OPTIONS = (
    click.option("--fit-flash", metavar="SIZE", help="With auto: the image, at most."),
    click.option("--fit-ram", metavar="SIZE", help="With auto: RAM while it runs, at most."),
    click.option("--min-tokens-s", type=float, help="With auto: the board decodes so fast."),
    click.option("--max-kl", type=float, help="With auto: nats a token lost, at most."),
    click.option(
        "--save-recipe",
        type=click.Path(path_type=Path),
        help="With auto: types, to a file.",
    ),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What was given of the options."""

    fit_flash: str | None
    fit_ram: str | None
    min_tokens_s: float | None
    max_kl: float | None
    save_recipe: Path | None

    def any(self) -> bool:
        return any(getattr(self, name) is not None for name in self.__slots__)

    def refuse(self) -> None:
        """UsageError when any was given: beside a type they would do nothing."""
        for name in self.__slots__:
            if getattr(self, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} goes with --quant auto alone")


def budget_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options, given to a verb as `asked`."""

    def gathered(**given: Any) -> None:
        asked = Asked(**{name: given.pop(name) for name in Asked.__slots__})
        function(asked=asked, **given)

    gathered.__doc__, gathered.__name__ = function.__doc__, function.__name__
    gathered.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(_OPTIONS):
        option(gathered)
    return gathered


def is_auto(quant: str | None, recipe: Path | None, asked: Asked) -> bool:
    """Also where a budget was given and no type."""
    if quant is None and recipe is None:
        return asked.any()
    return quant is not None and quant.strip().lower() == "auto"


def allocated(asked: Asked, model: Path, board: Board, **options: Any) -> Any:
    """An allocation.Allocated for what was asked; its recipe is saved if that was asked."""
    from qedge.runtime.sizes import parse_size
    from qedge.toolkit.allocate.allocation import Budget, allocate
    from qedge.toolkit.make.build import check_output
    from qedge.toolkit.quant.recipe_file import write_recipe

    if asked.save_recipe is not None:
        check_output(asked.save_recipe)
    budget = Budget(
        None if asked.fit_flash is None else parse_size(asked.fit_flash),
        None if asked.fit_ram is None else parse_size(asked.fit_ram),
        asked.min_tokens_s,
        asked.max_kl,
    )
    found = allocate(model, board, budget, **options)
    if asked.save_recipe is not None:
        write_recipe(asked.save_recipe, found.recipe, found.facts)
    return found
