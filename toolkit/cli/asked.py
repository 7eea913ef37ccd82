"""The options of `run`: how tokens are drawn, and what becomes of the prompt."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from qedge.runtime import UsageError
from qedge.runtime.sampling import MOST_TOKENS, RANGES


def _drawn(name: str, what: str) -> Callable[..., Any]:
    """The option of a value that tokens are drawn by; out of its range it is refused here."""
    default, low, high = RANGES[name]
    kind = click.IntRange if isinstance(default, int) else click.FloatRange
    return click.option(
        f"--{name.replace('_', '-')}", type=kind(low, high), default=default, help=what
    )


def run_options(function: Callable[..., None]) -> Callable[..., None]:
    """-n, how tokens are drawn, what becomes of the prompt, and --verify."""
    for option in reversed(
        [
            click.option(
                "-n",
                "--max-tokens",
                type=click.IntRange(1, MOST_TOKENS),
                default=256,
                show_default=True,
                help="Tokens at most.",
            ),
            _drawn("temperature", "0, the default, is greedy."),
            _drawn("top_k", "0 is off."),
            _drawn("top_p", "1 is off."),
            _drawn("min_p", "0 is off."),
            _drawn("repeat_penalty", "1 is off."),
            _drawn("seed", "Default: 0."),
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
