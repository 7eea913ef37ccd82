"""The command line: each verb parses, makes one library call, and prints. The only user of
click."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from qedge.runtime import BudgetError, ImageError, QedgeError, UsageError, WriteError, _engine
from qedge.runtime.text import printable
from qedge.toolkit import files
from qedge.toolkit.cli import advice, common, device, flash, model, quality, report, target

GROUPS = {
    "Models": ("pull", "build", "advise", "compare", "inspect", "tokenize", "eval"),
    "Running, here or on a board": ("run", "test", "bench", "report", "demo"),
    "Boards": ("boards", "flash", "rollback", "reset", "emulate", "firmware", "wheel"),
    "Signatures": ("keys", "sign"),
}
# What the system has no more of, and what there is no more room in.
_NO_MEMORY = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)

_CUT = (
    "ImageError: a file was cut short while it was in use: something wrote over it, or its "
    "disk failed; put new files in place by renaming them (mv), and run this again\n"
)


def _no_more_processes(error: Exception) -> bool:
    """Whether the system gives no thread or process more: a container's limit of pids, or
    ulimit -u. A stream that would have to be waited for has the same number."""
    if isinstance(error, RuntimeError):
        return "can't start new thread" in str(error)
    return isinstance(error, BlockingIOError) and not hasattr(error, "characters_written")


@contextmanager
def _streams() -> Iterator[None]:
    """What the system refuses, told as what it is, and by the right exit code: click would make
    a bug of a broken pipe."""
    from qedge.toolkit.cli import show

    try:
        yield
    except OSError as error:
        if _no_more_processes(error):
            raise
        if error.filename not in show.STREAMS.values():
            raise _system(error) from error
        show.discard(error.filename)
        if isinstance(error, BrokenPipeError):
            return  # whoever read us has read enough
        text = f"{error.filename}: {error.strerror}; send it elsewhere"
        raise WriteError(text) from error


class Verbs(click.Group):
    """The group of all verbs: answers what people type instead of one, and groups its help."""

    def make_context(self, *words: Any, **options: Any) -> click.Context:
        """Writes the help of all, and the version."""
        with _streams():
            return super().make_context(*words, **options)
        raise click.exceptions.Exit(0)  # whoever read it has read enough

    def invoke(self, context: click.Context) -> None:
        with _streams():
            try:
                super().invoke(context)
            except click.NoSuchOption as error:
                from qedge.toolkit.cli import guesses

                given: Any = error  # click means its fields to stay as they are
                given.possibilities = guesses.elsewhere(self, context, error)
                raise
            sys.stdout.flush()

    def resolve_command(
        self, context: click.Context, words: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(context, words[0]) is None:
            from qedge.toolkit.cli import guesses

            words = guesses.meant(self, context, words)
        return super().resolve_command(context, words)

    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        try:
            return super().parse_args(context, words)
        except click.NoSuchOption as error:
            from qedge.toolkit.cli import guesses

            given: Any = error
            given.message, given.possibilities = guesses.misplaced(self, context, words, error)
            raise

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """All of every line: click cuts them off."""
        grouped = {name for names in GROUPS.values() for name in names}
        others = tuple(name for name in self.list_commands(context) if name not in grouped)
        for title, names in (*GROUPS.items(), ("Others", others)):
            rows = [
                (name, verb.get_short_help_str(limit=1000))
                for name in names
                if (verb := self.get_command(context, name)) is not None and not verb.hidden
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="qedge", prog_name="qedge")
def cli() -> None:
    """Language models in one flash image: a proved memory budget, the same tokens
    everywhere."""


for room in (model, quality, advice, target, report, flash, device):
    for verb in room.VERBS:
        common.complete(verb)
        cli.add_command(verb)


def end_on_signals() -> None:
    """A polite end and a closed terminal clean up as Ctrl-C does; what whoever started us
    ignores (nohup) stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def end_when_cut() -> None:
    """A mapped file that somebody cuts short gives no error to catch: the system ends us, which
    at least says why, and leaves nothing half written."""

    def watch(unfinished: str) -> None:
        _engine.end_when_cut(_CUT.encode(), ImageError.exit_code, os.fsencode(unfinished))

    watch("")
    files.watch = watch


def main() -> None:
    """Entry point: every failure to its exit code; a traceback means a bug."""
    from qedge.toolkit.cli import show

    show.open_streams()
    # Nothing here multiplies by BLAS. Its threads would cost their stacks, and where none is to
    # be had numpy's OpenBLAS interrupts the process.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    end_on_signals()
    end_when_cut()
    try:
        cli.main(prog_name="qedge", standalone_mode=False)
    except click.ClickException as error:
        _usage(error)
    except MemoryError:
        text = "the system has no memory left for this"
        _failed(BudgetError.__name__, text, BudgetError.exit_code)
    except QedgeError as error:
        _failed(type(error).__name__, str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        with suppress(OSError):  # the terminal may be what has gone
            print("interrupted", file=sys.stderr, flush=True)
        sys.exit(2)
    except (RuntimeError, OSError) as error:  # behind click.Abort, which is one
        if not _no_more_processes(error):
            raise
        text = (
            "the system gives this no more threads or processes; raise the limit (a "
            "container's pids, ulimit -u)"
        )
        _failed(BudgetError.__name__, text, BudgetError.exit_code)


def _system(error: OSError) -> QedgeError:
    """What the system refused, as what it is: neither a wrong path nor standard output's."""
    name = "" if error.filename is None else f"{error.filename!s}: "
    reason = error.strerror or str(error) or type(error).__name__
    if isinstance(error, BrokenPipeError):
        return WriteError(f"{name}{reason}: the reader of the output has ended; run this again")
    if error.errno in _NO_MEMORY:
        return BudgetError(f"{name}{reason}; the system has no more: stop other programs")
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return ImageError(f"{name}{reason}; give the path of a file that is there")
    return WriteError(f"{name}{reason}; look at its permissions, and at the room there is")


def _usage(error: click.ClickException) -> None:
    """A wrong call, with the verb's usage above it."""
    context = getattr(error, "ctx", None)
    lines = []
    if context is not None:
        lines = [context.get_usage(), f"Try '{context.command_path} --help' for help.", ""]
    text = error.format_message()
    _failed(UsageError.__name__, text, UsageError.exit_code, [*lines, f"Error: {text}"])


def _failed(kind: str, text: str, code: int, lines: list[str] | None = None) -> None:
    """Ends with an error on standard error; with --json as an object on standard output, too,
    unless the answer is there already."""
    words = sys.argv[1:]
    words = words[: words.index("--")] if "--" in words else words
    if "--json" in words and not common.emitted:
        with suppress(OSError):  # the code says it all the same
            common.emit(True, {"error": kind, "message": text, "exit_code": code})
    with suppress(OSError):
        shown = "\n".join(lines or [f"{kind}: {text}"])
        print(printable(shown, keep="\n\t"), file=sys.stderr, flush=True)
    sys.exit(code)
