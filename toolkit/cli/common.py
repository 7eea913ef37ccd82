"""What the verbs share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from qedge.runtime import ImageError, UsageError


def emit(as_json: bool, fields: dict[str, Any]) -> None:
    """The one object of --json."""
    if as_json:
        print(json.dumps(fields, default=str), flush=True)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


def model_options(function: Callable[..., None]) -> Callable[..., None]:
    """Options of every verb that opens an image."""
    for option in reversed(
        [
            click.option(
                "--threads",
                type=int,
                help="Threads; default: the fast cores, up to the plan's.",
            ),
            click.option(
                "--context", type=int, help="Tokens; default: the plan's (eval: 512)."
            ),
            click.option("--batch", type=int, help="Tokens evaluated at a time."),
            click.option(
                "--memory", help="Limit of the arena: bytes, or with K, M, G (1024s)."
            ),
            click.option("--kernels", help="Force a kernel set; all give the same bits."),
            click.option("--pin", is_flag=True, help="Keep each worker on a core of its own."),
            click.option("--allow-paging", is_flag=True, help="Run though RAM is too small."),
        ]
    ):
        function = option(function)
    return function


def open_model(target: str, options: dict[str, Any]) -> Any:
    from qedge.runtime.model import Model

    if not os.path.exists(target):
        from qedge.toolkit import board

        if target in board.names():
            raise UsageError(
                f"{target} is a machine's profile; give the image file to run here"
            )
        raise ImageError(
            f"{target}: no such file; give an image (.qimg), made by `qedge build`"
        )
    names = ("context", "memory", "threads", "batch", "kernels", "allow_paging", "pin")
    return Model.open(target, **{name: options[name] for name in names})


identity_option = click.option(
    "--identity",
    envvar="QEDGE_IDENTITY",
    help="A private key for ssh; default: as your ssh configuration says.",
)


def port_option(function: Callable[..., None]) -> Callable[..., None]:
    """-p, and the key for a board that is reached by ssh."""
    for option in (
        identity_option,
        click.option(
            "-p",
            "--port",
            help="A serial port or URL, user@host, or labgrid:PLACE; default: looks for a "
            "microcontroller's line.",
        ),
    ):
        function = option(function)
    return function


def context_value(text: str) -> int | str:
    try:
        return "auto" if text == "auto" else int(text)
    except ValueError:
        raise UsageError(f"--context {text}: give a number of tokens, or auto") from None


ram_option = click.option(
    "--ram", help="RAM of a board that is sold with several sizes: 4G; default: the least."
)


def board_with_ram(name: str, ram: str | None) -> Any:
    """The board of that name, with --ram's RAM if that was given."""
    from qedge.runtime.sizes import parse_size
    from qedge.toolkit.board import load, with_ram

    return with_ram(load(name), None if ram is None else parse_size(ram))


def board_of(target: str, port: str | None) -> Any:
    """The board that a TARGET names, or None when it is an image on this machine."""
    if os.path.exists(target) and port is None:
        return None  # before numpy is imported with what knows boards: it costs 14 MiB
    from qedge.toolkit import board

    if port is None and target not in board.names():
        return None
    found = board.load(target)
    return found if found.device or found.linux or port is not None else None


@contextmanager
def connected(
    board: Any, port: str | None, identity: str | None = None
) -> Iterator[tuple[Any, Any]]:
    """A link to the board that was named, and what it says; WrongBoardError for another."""
    from qedge.toolkit import show
    from qedge.toolkit.reach import reach

    with reach(board, port, identity, show.say) as found:
        yield found.device, found.hello
