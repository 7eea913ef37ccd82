"""The options of `run`: how tokens are drawn, and what becomes of the prompt."""

from __future__ import annotations

import os
from collections.abc import Callable

import click

from qedge.runtime import UsageError

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "stop")
ASKED = ("chat", "system", "raw", "special")
_COUNT, _SHARE = click.IntRange(1, (1 << 31) - 1), click.FloatRange(0, 1)


def run_options(function: Callable[..., None]) -> Callable[..., None]:
    """-n, SAMPLING, ASKED and --verify; a value out of its range is refused here."""
    for option in reversed(
        [
            click.option(
                "-n",
                "--max-tokens",
                type=_COUNT,
                default=256,
                show_default=True,
                help="Tokens at most.",
            ),
            click.option(
                "--temperature",
                type=click.FloatRange(0, 1e6),
                default=0.0,
                show_default=True,
                help="0 is greedy.",
            ),
            click.option(
                "--top-k", type=click.IntRange(0, 1 << 31), default=0, help="0 is off."
            ),
            click.option("--top-p", type=_SHARE, default=1.0, help="1 is off."),
            click.option("--min-p", type=_SHARE, default=0.0, help="0 is off."),
            click.option(
                "--repeat-penalty",
                type=click.FloatRange(1e-6, 1e6),
                default=1.0,
                help="1 is off.",
            ),
            click.option(
                "--seed", type=click.IntRange(0, (1 << 64) - 1), default=0, help="Default: 0."
            ),
            click.option(
                "--stop",
                multiple=True,
                callback=lambda *values: _stops(values[2]),
                help="A text that ends the answer; may be repeated.",
            ),
            click.option(
                "--chat", is_flag=True, help="Put the prompt through the model's chat template."
            ),
            click.option(
                "--system", metavar="TEXT", help="A system message in front; implies --chat."
            ),
            click.option(
                "--special",
                is_flag=True,
                help="Control tokens that are written in the prompt count, as <|im_start|>.",
            ),
            click.option(
                "--raw",
                is_flag=True,
                help="The prompt as it is, though the image's template asks for every prompt.",
            ),
            click.option("--verify", is_flag=True, help="Check every byte of the image first."),
        ]
    ):
        function = option(function)
    return function


def _stops(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The texts of --stop. UsageError for an empty one."""
    if "" in texts:
        raise UsageError("an empty --stop would stop everything; leave it out")
    return texts


def no_prompt(target: str, port: str | None) -> str:
    """What to say to a run without a PROMPT: some tools take it by -p."""
    if port is None or not os.path.exists(target):
        return "Missing argument 'PROMPT': give a text, or - for standard input."
    return (
        "Missing argument 'PROMPT'. -p is a board's port here, the prompt stands by itself: "
        f'qedge run {target} "{port}"'
    )
