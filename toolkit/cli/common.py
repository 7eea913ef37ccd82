"""What the verbs share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

from qedge.runtime import ImageError, UsageError

emitted = False  # whether standard output has its one object


def emit(as_json: bool, fields: dict[str, Any]) -> None:
    """The one object of --json."""
    global emitted
    if as_json:
        emitted = True
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


MODEL_OPTIONS = ("context", "memory", "threads", "batch", "kernels", "allow_paging", "pin")
_IMAGE_MAGIC = b"QEDGEIMG"


def refuse(names: Iterable[str], why: str) -> None:
    """UsageError for the first of these options of the verb that was given on its line: what
    cannot be honoured is said, never ignored."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"{parameter.opts[-1]} {why}")


def open_model(target: str, options: dict[str, Any]) -> Any:
    """The model at TARGET: an image, or what one can be made of (toolkit/make/auto.py)."""
    from qedge.runtime.model import Model

    path = image_at(target)
    return Model.open(path, **{name: options[name] for name in MODEL_OPTIONS})


def refuse_board(target: str) -> None:
    """UsageError for a board's name where a file is read here, unless a file is called so."""
    from qedge.toolkit import board

    if target not in board.names() or os.path.exists(target):
        return
    found = board.load(target)
    if found.device is None and found.linux is None:
        raise UsageError(f"{target} is a machine's profile; give an image or a model here")
    raise UsageError(
        f"{target} is a board; give a file here (`qedge boards --connected` lists what "
        "boards hold)"
    )


def image_at(target: str) -> str:
    """The image that TARGET is, or that is built of it once; said on standard error."""
    if _may_be_image(target):
        return target
    refuse_board(target)
    from qedge.toolkit.cli import show
    from qedge.toolkit.make.auto import image_for

    with show.bar(True) as tell:
        return os.fspath(image_for(target, show.say, tell))


def _may_be_image(target: str) -> bool:
    """Whether a file is to be opened as an image; a damaged one is, too, to hear what it is."""
    if not os.path.isfile(target):
        return os.path.exists(target) and not os.path.isdir(target)
    try:
        with open(target, "rb") as file:
            start = file.read(len(_IMAGE_MAGIC))
    except OSError:
        return True
    return start == _IMAGE_MAGIC or not start.startswith(b"GGUF")


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


class Words(click.ParamType):  # type: ignore[type-arg]
    """Text that tab completion knows words for; files too, where a path may stand."""

    name = "text"

    def __init__(self, words: Callable[[], Iterable[str]], files: bool = False) -> None:
        self._words, self._files = words, files

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found = [CompletionItem(word) for word in self._words() if word.startswith(incomplete)]
        return [*found, *([CompletionItem(incomplete, type="file")] if self._files else [])]


def _boards() -> list[str]:
    from qedge.toolkit import board

    return [*board.names(), "host"]


_COMPLETED = {
    "board": Words(_boards),
    "bare_name": Words(_boards),
    "target": Words(_boards, files=True),
    "quant": Words(lambda: ("q4_0", "q8_0", "f16", "f32")),
    "kv": Words(lambda: ("q8_0", "f16", "f32")),
    "embedding": Words(lambda: ("q4_0", "q8_0", "f16", "f32")),
}


def complete(verb: click.Command) -> None:
    """Gives the parameters of a verb, and of its own verbs, the words of tab completion."""
    for inner in getattr(verb, "commands", {}).values():
        complete(inner)
    for parameter in verb.params:
        names = {option.lstrip("-") for option in parameter.opts}
        if parameter.name == "bare_name":
            names = {"board"}
        for name in names & _COMPLETED.keys():
            parameter.type = _COMPLETED[name]


def text_of(file: Path) -> bytes:
    """A text's bytes, of standard input for `-`; ImageError when it cannot be read."""
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise ImageError(f"{file}: {error.strerror}; give a readable file") from error


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


board_option = click.option("-b", "--board", metavar="BOARD", help="A board by its name.")


def board_argument(function: Callable[..., None]) -> Callable[..., None]:
    """-b for a verb that is about a board; its name by itself is understood, too."""

    def named(*args: Any, bare_name: str | None, name: str | None, **others: Any) -> None:
        if (bare_name is None) == (name is None):
            raise click.UsageError("Name one board: -b BOARD", click.get_current_context())
        function(*args, name=name or bare_name, **others)

    named.__name__, named.__doc__ = function.__name__, function.__doc__
    named.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    bare = click.argument("bare_name", metavar="", required=False)
    return click.option("-b", "--board", "name", metavar="BOARD", help="The board's name.")(
        bare(named)
    )


def board_named(name: str) -> Any:
    """The board that -b names, one that a model can run on. UsageError for a profile."""
    from qedge.toolkit.board import load

    found = load(name)
    if found.device is None and found.linux is None:
        raise UsageError(f"-b {name}: is a machine's profile; run an image of it here")
    return found


def board_of(target: str, port: str | None) -> Any:
    """The board that a TARGET names, or None when it is an image on this machine."""
    here = os.path.exists(target)
    if target.endswith(".toml"):  # a board of one's own
        return board_named(target)
    if here and port is None:
        refuse(("identity",), f"is for boards; {target} is a file here")
        return None
    from qedge.toolkit import board

    if target not in board.names():
        if port is None:
            return None
        if here:
            raise UsageError(
                f"-p {port}: is a board's port, and {target} a file here; leave -p out, or "
                "name the board"
            )
    found = board.load(target)
    return found if found.device or found.linux or port is not None else None


def check_identity(board: Any) -> None:
    """UsageError for --identity with a board that is not reached by ssh."""
    if board.linux is None:
        refuse(("identity",), f"is for boards that are reached by ssh; a {board.name} is not")


@contextmanager
def connected(
    board: Any, port: str | None, identity: str | None = None
) -> Iterator[tuple[Any, Any]]:
    """A link to the board that was named, and what it says; WrongBoardError for another."""
    from qedge.toolkit.cli import show
    from qedge.toolkit.device.reach import reach

    check_identity(board)
    with reach(board, port, identity, show.say) as found:
        yield found.device, found.hello
