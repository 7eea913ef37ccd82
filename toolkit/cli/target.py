"""The verbs that run a model, here (TARGET is an image) or on a board (TARGET is its name)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from qedge.runtime import BoardTestError, QedgeError, UsageError
from qedge.runtime.image import EVERY_PROMPT, verify_image
from qedge.toolkit.cli.asked import ASKED, SAMPLING, no_prompt, run_options
from qedge.toolkit.cli.common import (
    MODEL_OPTIONS,
    board_of,
    connected,
    emit,
    image_at,
    json_option,
    model_options,
    open_model,
    port_option,
    refuse,
)

_PLAN = 2  # the section (runtime/engine/SPEC.md 3.2)
_BY_THE_PLAN = "has no effect on a board, which runs by its image's plan; leave it out"


@click.command()
@click.argument("target")
@click.argument("prompt", required=False)
@run_options
@click.option("--hash", "with_hash", is_flag=True, help="Also logits_hash.")
@port_option
@model_options
@json_option
def run(
    target: str,
    prompt: str | None,
    port: str | None,
    identity: str | None,
    as_json: bool,
    with_hash: bool,
    verify: bool,
    **options: Any,
) -> None:
    """Generate text with the model at TARGET, an image or a board; PROMPT - reads standard
    input."""
    if prompt is None:
        raise click.UsageError(no_prompt(target, port), click.get_current_context())
    text = sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt)
    asked = {name: options[name] for name in ASKED}
    if (board := board_of(target, port)) is not None:
        refuse(MODEL_OPTIONS, _BY_THE_PLAN)
        refuse(("verify",), "is for images here; `qedge test` proves what a board has")
        _run_there(board, port, identity, text, as_json, with_hash, options, asked)
        return
    from qedge.runtime.machine import peak_rss_bytes
    from qedge.toolkit.cli import show

    with open_model(target, options) as model:
        if verify:
            verify_image(model.image, target)
        tokens = _ids(model, text, asked)
        pieces = []
        sampling = {name: options[name] for name in SAMPLING}
        for piece in model.generate(tokens, options["max_tokens"], hash=with_hash, **sampling):
            pieces.append(piece)
            if not as_json:
                show.piece(piece)
        fields = {
            "text": "".join(pieces),
            "tokens": model.tokens,
            "finish_reason": model.finish_reason,
            **model.stats._asdict(),
            "arena_bytes": model.arena_bytes,
            "peak_rss_bytes": peak_rss_bytes(),
            "kernels": model.kernels,
            "image_id": model.image_id,
        }
        if with_hash:
            fields["logits_hash"] = model.logits_hash()
        emit(as_json, fields)
        if not as_json:
            print(flush=True)
            if with_hash:
                show.say(f"logits_hash {fields['logits_hash']}")
            show.ran(
                model.stats,
                model.arena_bytes,
                fields["peak_rss_bytes"],
                model.resident_bytes,
                model.kernels,
                model.finish_reason,
            )


def _ids(model: Any, text: bytes, asked: dict[str, Any]) -> list[int]:
    """The ids of a prompt; a plain one needs nothing of conversations."""
    marked = not asked["raw"] and (model.chat_template or "").startswith(EVERY_PROMPT)
    if not asked["chat"] and asked["system"] is None and not marked:
        return list(model.prompt_tokens(text, special=asked["special"]))
    from qedge.toolkit.chat.prompts import ids_here

    return ids_here(model, text, **asked)


def _planned_arena(device: Any) -> int | None:
    """The arena that the active image's plan says, of the board's; None when it has none."""
    try:
        plan = device.section(_PLAN)
    except QedgeError:  # older firmware
        return None
    return None if plan is None or len(plan) < 32 else int.from_bytes(plan[24:32], "little")


def memory_of(hello: Any, device: Any) -> dict[str, int]:
    """What a board's RAM holds for a session: a microcontroller's arena is static, so all of it
    counts, whatever the image needs of it; a board with Linux says what its agent took."""
    if hello.ram:
        return {"peak_rss_bytes": hello.peak_rss}
    return {
        "arena_bytes": hello.arena,
        "image_arena_bytes": _planned_arena(device),
        "stack_used_bytes": hello.stack_used,
        "peak_rss_bytes": hello.arena + hello.stack_used,
    }


def _run_there(
    board: Any,
    port: str | None,
    identity: str | None,
    text: bytes,
    as_json: bool,
    with_hash: bool,
    options: Any,
    asked: Any,
) -> None:
    from qedge.toolkit.chat.prompts import text_there
    from qedge.toolkit.cli import show
    from qedge.toolkit.device.remote import Run

    with connected(board, port, identity) as (device, hello):
        sampling = {name: options[name] for name in SAMPLING}
        text, told = text_there(device, text, **asked)
        made = Run(device, text, options["max_tokens"], hash=with_hash, **told, **sampling)
        pieces = []
        for piece in made:
            pieces.append(piece)
            if not as_json:
                show.piece(piece)
        after = device.hello()
        memory = memory_of(after, device)
    fields = {
        "text": "".join(pieces),
        "tokens": made.tokens,
        "finish_reason": made.finish_reason,
        "prompt_tokens": made.times.prompt_tokens,
        "generated_tokens": len(made.tokens),
        **made.times.fields(hello, board),
        **memory,
        "kernels": hello.kernels,
        "image_id": hello.image_id,
        "board_id": hello.board_id,
    }
    if with_hash:
        fields["logits_hash"] = made.logits_hash
    emit(as_json, fields)
    if not as_json:
        print(flush=True)
        if with_hash:
            show.say(f"logits_hash {made.logits_hash}")
        show.ran_there(fields)


@click.command()
@click.argument("target")
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
    "--within", default=2.0, show_default=True, help="Percent of the median, 95 % confidence."
)
@click.option("--cold", is_flag=True, help="The system forgets the image before it is opened.")
@click.option("--append", type=click.Path(), help="Add the results to a file, as a JSON line.")
@click.option("--strict", is_flag=True, help="Exit code 10 when the measurement is invalid.")
@port_option
@model_options
@json_option
def bench(
    target: str,
    prompt_tokens: int | None,
    decode_tokens: int | None,
    depths: tuple[int, ...],
    port: str | None,
    identity: str | None,
    **options: Any,
) -> None:
    """Measure prefill and decode of the model at TARGET, an image or a board; medians, and what
    they are worth."""
    if options["append"] is not None:
        from qedge.toolkit.results.record import check_appendable

        check_appendable(options["append"])
    if (board := board_of(target, port)) is not None:
        refuse(MODEL_OPTIONS, _BY_THE_PLAN)
        refuse(("cold", "rounds"), "works with images; --repeat with a board, too")
        if board.linux is None:
            refuse(("within",), "is for images and boards with Linux; --repeat with this one")
        with connected(board, port, identity) as (device, hello):
            if board.linux is not None:
                _measure_there(
                    board, device, hello, prompt_tokens, decode_tokens, depths, options
                )
            else:
                _bench_there(
                    board,
                    device,
                    hello,
                    prompt_tokens or 16,
                    decode_tokens or 16,
                    depths,
                    options,
                )
        return
    from qedge.runtime.measure.rounds import measure
    from qedge.toolkit.board import host_name
    from qedge.toolkit.cli import show

    least, most = _rounds(options["rounds"])
    image = image_at(target)  # building it is not part of what is measured
    with show.bar(True) as tell:
        results = measure(
            image,
            lambda: open_model(image, options),
            prompt_tokens=512 if prompt_tokens is None else prompt_tokens,
            decode_tokens=128 if decode_tokens is None else decode_tokens,
            depths=depths,
            repeat=options["repeat"],
            least=least,
            most=most,
            within=options["within"] / 100,
            cold=options["cold"],
            allow_paging=options["allow_paging"],
            progress=(lambda done, of: tell("measure", done, of)) if tell else None,
        )
    benched(results, host_name(), target, options, lambda: show.measured(target, results))


def _rounds(text: str | None) -> tuple[int, int]:
    """`6-30`, or one number for both."""
    from qedge.runtime.measure.rounds import LEAST_ROUNDS, MOST_ROUNDS

    if text is None:
        return LEAST_ROUNDS, MOST_ROUNDS
    low, _, high = text.partition("-")
    if not (low.isdecimal() and (high or low).isdecimal()):
        raise UsageError(f"--rounds {text}: give the least and the most, as 6-30")
    return int(low), int(high or low)


def benched(
    results: dict[str, Any],
    board: str,
    target: str,
    options: dict[str, Any],
    tell: Callable[[], None],
) -> None:
    """What becomes of every measurement, wherever it was made: a verdict, a line for --json and
    --append, a table by tell, the reasons when it is invalid. BoardTestError when --strict."""
    from qedge.toolkit.cli import show
    from qedge.toolkit.results import record
    from qedge.toolkit.results.trust import judge

    verdict = judge(results)
    fields = record.record(results, verdict, board=board, target=target)
    emit(options["as_json"], fields)
    if not options["as_json"]:
        tell()
    for flag in verdict.flags:
        show.say(f"{'invalid' if flag.invalidates else 'note'}: {flag.name}: {flag.text}")
    if options["append"] is not None:  # last: what was measured has been said by then
        record.append(options["append"], fields)
    if options["strict"] and not verdict.valid:
        raise BoardTestError(f"{target}: invalid measurement; {'; '.join(verdict.reasons)}")


def _measure_there(
    board: Any,
    device: Any,
    hello: Any,
    prompt_tokens: int | None,
    decode_tokens: int | None,
    depths: tuple[int, ...],
    options: dict[str, Any],
) -> None:
    """On a board with Linux, where the same rounds are made as here."""
    from qedge.toolkit.cli import show
    from qedge.toolkit.device.remote import measure as measure_there
    from qedge.toolkit.make.predict import predict_measured

    least, most = _rounds(options["rounds"])
    with show.bar(True) as tell:
        results = measure_there(
            device,
            prompt_tokens=512 if prompt_tokens is None else prompt_tokens,
            decode_tokens=128 if decode_tokens is None else decode_tokens,
            depths=list(depths or (0,)),
            repeat=options["repeat"],
            least=least,
            most=most,
            within=options["within"] / 100,
            cold=options["cold"],
            progress=tell,
        )
    results["emulated"] = hello.emulated
    if hello.emulated:  # what an emulator's clock says is no speed
        rates = ("prefill_tokens_per_second", "decode_tokens_per_second", "ttft_seconds")
        results.update(dict.fromkeys(rates))
    results["board_id"] = hello.board_id
    results["predicted_tokens_per_second"] = predict_measured(board, results.pop("model"))
    benched(
        results, board.name, board.name, options, lambda: show.measured(board.name, results)
    )


def _bench_there(
    board: Any,
    device: Any,
    hello: Any,
    prompt_tokens: int,
    decode_tokens: int,
    depths: tuple[int, ...],
    options: dict[str, Any],
) -> None:
    from qedge.runtime.measure.rounds import FIELDS
    from qedge.toolkit.cli import show
    from qedge.toolkit.device.remote import bench as bench_there

    depths, repeat = depths or (0,), options["repeat"]
    repeat = (1 if hello.emulated else 3) if repeat is None else repeat
    found = [
        bench_there(
            device,
            prompt_tokens=prompt_tokens,
            decode_tokens=decode_tokens,
            depth=depth,
            repeat=repeat,
        ).fields(hello, board)
        for depth in depths
    ]
    after = device.hello()
    results = {
        **dict.fromkeys(FIELDS),
        **found[0],
        **memory_of(after, device),
        "decode": [
            {"depth": depth, "tokens_per_second": one["decode_tokens_per_second"]}
            for depth, one in zip(depths, found)
        ],
        "kernels": hello.kernels,
        "repeat": repeat,
        "threads": 1,
        "prompt_tokens": prompt_tokens,
        "decode_tokens": decode_tokens,
        "depth": depths[0],
        "image_id": hello.image_id,
        "board_id": hello.board_id,
    }
    benched(results, board.name, board.name, options, lambda: show.ran_there(results))


@click.command()
@click.argument("target")
@port_option
@model_options
@json_option
def test(
    target: str, port: str | None, identity: str | None, as_json: bool, **options: Any
) -> None:
    """Run the golden test of the image at TARGET, a file or what is active on a board."""
    if (board := board_of(target, port)) is not None:
        from qedge.toolkit.device.remote import test as test_there

        refuse(MODEL_OPTIONS, _BY_THE_PLAN)
        with connected(board, port, identity) as (device, hello):
            digest, kernels = test_there(device), hello.kernels
    else:
        with open_model(target, options) as model:
            verify_image(model.image, target)  # a damaged file is not the engine's fault
            digest, kernels = model.test(), model.kernels
    emit(as_json, {"passed": True, "logits_hash": digest, "kernels": kernels})
    if not as_json:
        print(f"passed: logits_hash {digest}, kernels {kernels}")


VERBS = (run, bench, test)
