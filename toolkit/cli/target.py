"""The verbs that run a model, here (TARGET is an image) or on a board (-b). Each is three
steps: what was asked, one call of a target (device/target.py), and what people see of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from qedge.runtime import BoardTestError, UsageError
from qedge.runtime.sampling import RANGES
from qedge.toolkit.cli.asked import no_prompt, run_options
from qedge.toolkit.cli.common import (
    MODEL_OPTIONS,
    board_named,
    board_of,
    board_option,
    connected,
    emit,
    image_at,
    json_option,
    model_options,
    port_option,
    refuse,
)
from qedge.toolkit.device.target import Ask, Rounds, Target


@contextmanager
def _target(
    target: str | None,
    name: str | None,
    port: str | None,
    identity: str | None,
    options: dict[str, Any],
    rounds: Rounds | None = None,
) -> Iterator[Target]:
    """What TARGET names, an image here or a board that answers, or the board that -b names."""
    if (target is None) == (name is None):
        raise click.UsageError(
            f"-b {name}: the model is the board's; leave {target} out"
            if target is not None
            else "Missing argument 'TARGET': give an image, or a board by -b.",
            click.get_current_context(),
        )
    session = {name: options[name] for name in MODEL_OPTIONS}
    board = board_named(name) if name is not None else board_of(str(target), port)
    if target is not None and board is None:
        from qedge.toolkit.device.here import ImageTarget

        yield ImageTarget(image_at(target), verify=options.get("verify", False), **session)
        return
    refuse(("verify",), "is for images here; `qedge test` proves what a board has")
    from qedge.toolkit.device.there import check_rounds_of, on_board, session_of

    session_of(board, session)  # what it cannot honour is said before it is looked for
    if rounds is not None:
        check_rounds_of(board, rounds)
    with connected(board, port, identity) as (device, hello):
        yield on_board(board, device, hello, **session)


@click.command()
@click.argument("target", required=False, metavar="[TARGET]")
@click.argument("prompt", required=False)
@board_option
@run_options
@click.option("--hash", "with_hash", is_flag=True, help="Also logits_hash.")
@port_option
@model_options
@json_option
def run(
    target: str | None,
    prompt: str | None,
    board: str | None,
    port: str | None,
    identity: str | None,
    as_json: bool,
    with_hash: bool,
    **options: Any,
) -> None:
    """Generate text with the model at TARGET, an image, or on the board that -b names; PROMPT -
    reads standard input."""
    if board is not None and prompt is None:  # the one word that is left is the prompt
        target, prompt = None, target
    if prompt is None:
        raise click.UsageError(no_prompt(target or "IMAGE", port), click.get_current_context())
    ask = Ask(
        sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt),
        options["max_tokens"],
        **{name: options[name] for name in ("chat", "system", "raw", "special", "stop")},
        hash=with_hash,
        sampling={name: options[name] for name in RANGES},
    )
    from qedge.toolkit.cli import show

    with _target(target, board, port, identity, options) as found:
        running = found.run(ask)
        for piece in running:
            if not as_json:
                show.piece(piece)
        fields = running.fields()
    emit(as_json, fields)
    if not as_json:
        print(flush=True)
        show.ran(fields)


@click.command()
@click.argument("target", required=False, metavar="[TARGET]")
@board_option
@click.option("--prompt-tokens", type=int, help="Default: 512, on a microcontroller 16.")
@click.option("--decode-tokens", type=int, help="Default: 128, on a microcontroller 16.")
@click.option(
    "--depth",
    "depths",
    type=int,
    multiple=True,
    help="Tokens before decode starts; may be repeated. Default: 0.",
)
@click.option(
    "--repeat",
    type=int,
    help="Exactly so many rounds; default: until decode is known to --within, on a "
    "microcontroller 3 (1 when emulated).",
)
@click.option("--rounds", help="At least and at most, as 6-30, which is the default.")
@click.option(
    "--within", type=float, help="Percent of the median, 95 % confidence. Default: 2."
)
@click.option("--cold", is_flag=True, help="The system forgets the image before it is opened.")
@click.option("--append", type=click.Path(), help="Add the results to a file, as a JSON line.")
@click.option("--strict", is_flag=True, help="Exit code 10 when the measurement is invalid.")
@port_option
@model_options
@json_option
def bench(
    target: str | None,
    board: str | None,
    port: str | None,
    identity: str | None,
    **options: Any,
) -> None:
    """Measure prefill and decode of the model at TARGET, an image, or on the board that -b
    names; medians, and what they are worth."""
    if options["append"] is not None:
        from qedge.toolkit.results.record import check_appendable

        check_appendable(options["append"])
    least, most = _rounds(options["rounds"])
    within = options["within"]
    rounds = Rounds(
        **{name: options[name] for name in ("prompt_tokens", "decode_tokens", "depths")},
        repeat=options["repeat"],
        least=least,
        most=most,
        within=None if within is None else within / 100,
        cold=options["cold"],
    )
    from qedge.toolkit.cli import show

    with (
        _target(target, board, port, identity, options, rounds) as found,
        show.bar(True) as tell,
    ):
        results = found.bench(rounds, tell)
        _benched(found, results, options)


def _rounds(text: str | None) -> tuple[int | None, int | None]:
    """`6-30`, or one number for both."""
    if text is None:
        return None, None
    low, _, high = text.partition("-")
    if not (low.isdecimal() and (high or low).isdecimal()):
        raise UsageError(f"--rounds {text}: give the least and the most, as 6-30")
    return int(low), int(high or low)


def _benched(target: Target, results: dict[str, Any], options: dict[str, Any]) -> None:
    """What becomes of every measurement, wherever it was made: a verdict, a line for --json and
    --append, a table, the reasons when it is invalid. BoardTestError when --strict."""
    from qedge.toolkit.cli import show
    from qedge.toolkit.results import record
    from qedge.toolkit.results.trust import judge

    verdict = judge(results)
    fields = record.record(results, verdict, board=target.board, target=target.name)
    emit(options["as_json"], fields)
    if not options["as_json"]:
        show.measured(target.name, results)
    for flag in verdict.flags:
        show.say(f"{'invalid' if flag.invalidates else 'note'}: {flag.name}: {flag.text}")
    if options["append"] is not None:  # last: what was measured has been said by then
        record.append(options["append"], fields)
    if options["strict"] and not verdict.valid:
        reasons = "; ".join(verdict.reasons)
        raise BoardTestError(f"{target.name}: invalid measurement; {reasons}")


@click.command()
@click.argument("target", required=False, metavar="[TARGET]")
@board_option
@port_option
@model_options
@json_option
def test(
    target: str | None,
    board: str | None,
    port: str | None,
    identity: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run the golden test of the image at TARGET, or of what is active on the board that -b
    names."""
    with _target(target, board, port, identity, options) as found:
        fields = found.test()
    emit(as_json, fields)
    if not as_json:
        print(f"passed: logits_hash {fields['logits_hash']}, kernels {fields['kernels']}")


VERBS = (run, bench, test)
