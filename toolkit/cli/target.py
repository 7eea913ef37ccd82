"""The verbs that run a model, here (TARGET is an image) or on a board (TARGET is its name)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from qedge.runtime import UsageError
from qedge.toolkit.cli.common import (
    board_of,
    connected,
    emit,
    json_option,
    model_options,
    open_model,
    port_option,
)

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "stop")


@click.command()
@click.argument("target")
@click.argument("prompt")
@click.option("-n", "--max-tokens", default=256, show_default=True, help="Tokens at most.")
@click.option("--temperature", default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", default=0, help="0 is off.")
@click.option("--top-p", default=1.0, help="1 is off.")
@click.option("--min-p", default=0.0, help="0 is off.")
@click.option("--repeat-penalty", default=1.0, help="1 is off.")
@click.option("--seed", default=0, show_default=True)
@click.option("--stop", multiple=True, help="A text that ends the answer; may be repeated.")
@click.option("--chat", is_flag=True, help="Put the prompt through the model's chat template.")
@click.option("--hash", "with_hash", is_flag=True, help="Also logits_hash.")
@port_option
@model_options
@json_option
def run(
    target: str,
    prompt: str,
    port: str | None,
    identity: str | None,
    as_json: bool,
    with_hash: bool,
    chat: bool,
    **options: Any,
) -> None:
    """Generate text with the model at TARGET, an image or a board; PROMPT - reads standard
    input."""
    text = sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt)
    if (board := board_of(target, port)) is not None:
        if chat:
            raise UsageError("--chat works with images; give a board the whole prompt")
        _run_there(board, port, identity, text, as_json, with_hash, options)
        return
    from qedge.runtime.machine import peak_rss_bytes
    from qedge.toolkit import show

    with open_model(target, options) as model:
        tokens = model.prompt_tokens(text)
        if chat:
            from qedge.toolkit.chat import chat_tokens

            tokens = chat_tokens(model, [{"role": "user", "content": text.decode()}])
        pieces = []
        sampling = {name: options[name] for name in _SAMPLING}
        for piece in model.generate(tokens, options["max_tokens"], hash=with_hash, **sampling):
            pieces.append(piece)
            if not as_json:
                print(piece, end="", flush=True)
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


def memory_of(hello: Any) -> dict[str, int]:
    """What a board's RAM holds for a session: a microcontroller's arena is static, so all of it
    counts; a board with Linux says what its agent took."""
    if hello.ram:
        return {"peak_rss_bytes": hello.peak_rss}
    return {
        "arena_bytes": hello.arena,
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
) -> None:
    from qedge.toolkit import show
    from qedge.toolkit.remote import Run

    with connected(board, port, identity) as (device, hello):
        sampling = {name: options[name] for name in _SAMPLING}
        made = Run(device, text, options["max_tokens"], hash=with_hash, **sampling)
        pieces = []
        for piece in made:
            pieces.append(piece)
            if not as_json:
                print(piece, end="", flush=True)
        after = device.hello()
    fields = {
        "text": "".join(pieces),
        "tokens": made.tokens,
        "finish_reason": made.finish_reason,
        "prompt_tokens": made.times.prompt_tokens,
        "generated_tokens": len(made.tokens),
        **made.times.fields(hello, board),
        **memory_of(after),
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
        from qedge.toolkit.record import check_appendable

        check_appendable(options["append"])
    if (board := board_of(target, port)) is not None:
        if options["cold"] or options["rounds"]:
            raise UsageError("--cold and --rounds work with images; --repeat with a board, too")
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
    from qedge.runtime.measure import measure
    from qedge.toolkit import show
    from qedge.toolkit.board import host_name

    least, most = _rounds(options["rounds"])
    with show.bar(True) as tell:
        results = measure(
            target,
            lambda: open_model(target, options),
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
    from qedge.runtime.measure import LEAST_ROUNDS, MOST_ROUNDS

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
    from qedge.runtime import BoardTestError
    from qedge.toolkit import record, show
    from qedge.toolkit.trust import judge

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
    from qedge.toolkit import show
    from qedge.toolkit.predict import predict_measured
    from qedge.toolkit.remote import measure as measure_there

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
    from qedge.runtime.measure import FIELDS
    from qedge.toolkit import show
    from qedge.toolkit.remote import bench as bench_there

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
        **memory_of(after),
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
        from qedge.toolkit.remote import test as test_there

        with connected(board, port, identity) as (device, hello):
            digest, kernels = test_there(device), hello.kernels
    else:
        with open_model(target, options) as model:
            digest, kernels = model.test(), model.kernels
    emit(as_json, {"passed": True, "logits_hash": digest, "kernels": kernels})
    if not as_json:
        print(f"passed: logits_hash {digest}, kernels {kernels}")


VERBS = (run, bench, test)
