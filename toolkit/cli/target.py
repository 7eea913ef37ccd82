"""The verbs that run a model, here (TARGET is an image) or on a board (TARGET is its name)."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
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
@click.option("--depth", default=0, show_default=True, help="Tokens before decode starts.")
@click.option("--repeat", type=int, help="Default: 3; on emulated boards, which count, 1.")
@port_option
@model_options
@json_option
def bench(
    target: str,
    prompt_tokens: int | None,
    decode_tokens: int | None,
    depth: int,
    repeat: int | None,
    port: str | None,
    identity: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure prefill and decode of the model at TARGET, an image or a board; medians."""
    from qedge.toolkit import show

    if (board := board_of(target, port)) is not None:
        from qedge.toolkit.remote import bench as bench_there

        prompt_tokens, decode_tokens = prompt_tokens or 16, decode_tokens or 16
        with connected(board, port, identity) as (device, hello):
            repeat = (1 if hello.emulated else 3) if repeat is None else repeat
            times = bench_there(
                device,
                prompt_tokens=prompt_tokens,
                decode_tokens=decode_tokens,
                depth=depth,
                repeat=repeat,
            )
            after = device.hello()
        fields = {
            **times.fields(hello, board),
            **memory_of(after),
            "kernels": hello.kernels,
            "repeat": repeat,
            "threads": 1,
            "prompt_tokens": prompt_tokens,
            "decode_tokens": decode_tokens,
            "depth": depth,
            "image_id": hello.image_id,
            "board_id": hello.board_id,
        }
        emit(as_json, fields)
        if not as_json:
            show.ran_there(fields)
        return
    from qedge.toolkit.measure import measure

    prompt_tokens, decode_tokens = prompt_tokens or 512, decode_tokens or 128
    repeat = 3 if repeat is None else repeat
    with open_model(target, options) as model, show.bar(True) as tell:
        found = measure(
            model,
            model.threads,
            prompt_tokens=prompt_tokens,
            decode_tokens=decode_tokens,
            depth=depth,
            repeat=repeat,
            progress=(lambda done: tell("measure", done, repeat)) if tell else None,
        )
        fields = {**asdict(found), "image_id": model.image_id}
    emit(as_json, fields)
    if not as_json:
        show.table(
            target,
            {
                f"prefill of {prompt_tokens}": show.rate(found.prefill_tokens_per_second),
                "decode": f"{show.rate(found.decode_tokens_per_second)} at depth {depth}",
                "first token": f"{found.ttft_seconds * 1000:.1f} ms",
                "threads": f"{found.threads}, kernels {found.kernels}, median of {repeat}",
                "arena": f"{found.arena_bytes:,} B, peak resident {found.peak_rss_bytes:,} B",
            },
            answer=True,
        )


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
