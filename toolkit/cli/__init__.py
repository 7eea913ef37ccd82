"""The command line: each verb parses, makes one library call, and prints. The only user of
click."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

import click

from qedge.runtime import BudgetError, ImageError, QedgeError, WriteError, _engine
from qedge.toolkit import files
from qedge.toolkit.cli import advice, device, flash, model, report, target

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


class Verbs(click.Group):
    """Answers for standard output; click would make a bug's exit code of a broken pipe."""

    def invoke(self, context: click.Context) -> None:
        from qedge.toolkit import show

        try:
            super().invoke(context)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read us has read enough
            show.discard_output()
        except OSError as error:
            if error.filename is not None or _no_more_processes(error):
                raise
            show.discard_output()
            raise WriteError(f"standard output: {error.strerror}; send it elsewhere") from error


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="qedge", prog_name="qedge")
def cli() -> None:
    """Language models in one flash image: a proved memory budget, the same tokens
    everywhere."""


for room in (model, advice, target, report, flash, device):
    for verb in room.VERBS:
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
    from qedge.toolkit import show

    show.open_streams()
    # Nothing here multiplies by BLAS. Its threads would cost their stacks, and where none is to
    # be had numpy's OpenBLAS interrupts the process.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    end_on_signals()
    end_when_cut()
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        with suppress(OSError):  # the terminal may be what has gone
            print("interrupted", file=sys.stderr, flush=True)
        sys.exit(2)
    except QedgeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (RuntimeError, OSError) as error:
        if not _no_more_processes(error):
            raise
        print(
            "BudgetError: the system gives this no more threads or processes; raise the limit "
            "(a container's pids, ulimit -u)",
            file=sys.stderr,
        )
        sys.exit(BudgetError.exit_code)
    except MemoryError:
        print("BudgetError: the system has no memory left for this", file=sys.stderr)
        sys.exit(BudgetError.exit_code)
