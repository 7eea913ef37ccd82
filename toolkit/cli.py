"""The command line: each verb parses, makes one library call, and prints. The only user of
click."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qedge.runtime import BudgetError, ImageError, QedgeError, UsageError, WriteError


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
            if error.filename is not None:
                raise
            show.discard_output()
            raise WriteError(f"standard output: {error.strerror}; send it elsewhere") from error


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="qedge", prog_name="qedge")
def cli() -> None:
    """Language models in one flash image: a proved memory budget, the same tokens
    everywhere."""


@cli.command()
@click.argument("name")
@json_option
def pull(name: str, as_json: bool) -> None:
    """Fetch a model: smollm2-135m, or hf:ORG/REPO/FILE."""
    from qedge.toolkit import show
    from qedge.toolkit.pull import pull as fetch

    with show.bar(True) as tell:
        found = fetch(
            name, progress=(lambda done, of: tell("fetch", done, of)) if tell else None
        )
    emit(as_json, {"path": found.path, "bytes": found.bytes, "sha256": found.sha256})
    if not as_json:
        print(found.path)


def context_value(text: str) -> int | str:
    try:
        return "auto" if text == "auto" else int(text)
    except ValueError:
        raise UsageError(f"--context {text}: give a number of tokens, or auto") from None


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-b", "--board", required=True, help="A board's name, or host for this machine.")
@click.option("--quant", default="q8_0", show_default=True, help="q4_0, q8_0, f16 or f32.")
@click.option(
    "--context", default="auto", show_default=True, help="Tokens, or auto: the most that fits."
)
@click.option("--kv", help="KV cache: q8_0, f16 or f32; default: q8_0 for quantized images.")
@click.option("--embedding", help="Type of embedding and output; default: q8_0 for q4_0.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Of a llama2.c model.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Default: MODEL-QUANT.qimg here."
)
@json_option
def build(
    model: Path,
    board: str,
    quant: str,
    context: str,
    kv: str | None,
    embedding: str | None,
    tokenizer: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Quantize MODEL and pack it into one image for a board."""
    from qedge.toolkit import show
    from qedge.toolkit.board import load
    from qedge.toolkit.build import build as build_image

    output = output or Path(
        f"{model.stem if model.is_file() else model.resolve().name}-{quant}.qimg"
    )
    with show.bar(True) as tell:
        found = build_image(
            model,
            load(board),
            output,
            quant=quant,
            context=context_value(context),
            kv=kv,
            embedding=embedding,
            tokenizer=tokenizer,
            progress=tell,
        )
    emit(
        as_json,
        {
            "image": found.image,
            "image_id": found.image_id,
            "bytes": found.bytes,
            "board": found.board,
            "quant": found.quant,
            "embedding": found.embedding,
            "kv": found.plan.kv,
            "context": found.plan.context,
            "batch": found.plan.batch,
            "threads": found.plan.threads,
            "arena_bytes": found.plan.arena_bytes,
            "resident_bytes": found.plan.resident_bytes,
            "seconds": found.seconds,
        },
    )
    if not as_json:
        show.built(found)


@cli.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Check every byte against the hash tree.")
@json_option
def inspect(image: Path, verify: bool, as_json: bool) -> None:
    """Show an image's sections, plan and provenance."""
    from qedge.toolkit import show
    from qedge.toolkit.describe import describe

    found = describe(image, verify)
    emit(as_json, found)
    if not as_json:
        for title, rows in found.items():
            if isinstance(rows, dict):
                show.table(title, rows, answer=True)
            else:
                told = "not checked (--verify does)" if rows is None else rows
                show.table("", {title: told}, answer=True)


@cli.command()
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
@model_options
@json_option
def run(
    target: str, prompt: str, as_json: bool, with_hash: bool, chat: bool, **options: Any
) -> None:
    """Generate text with the model at TARGET; PROMPT - reads standard input."""
    from qedge.runtime.machine import peak_rss_bytes
    from qedge.toolkit import show

    text = sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt)
    with open_model(target, options) as model:
        tokens = model.prompt_tokens(text)
        if chat:
            from qedge.toolkit.chat import chat_tokens

            tokens = chat_tokens(model, [{"role": "user", "content": text.decode()}])
        pieces = []
        names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "stop")
        sampling = {name: options[name] for name in names}
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


@cli.command()
@click.argument("target")
@click.option("--prompt-tokens", default=512, show_default=True)
@click.option("--decode-tokens", default=128, show_default=True)
@click.option("--depth", default=0, show_default=True, help="Tokens before decode starts.")
@click.option("--repeat", default=3, show_default=True)
@model_options
@json_option
def bench(
    target: str,
    prompt_tokens: int,
    decode_tokens: int,
    depth: int,
    repeat: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure prefill and decode of the model at TARGET; medians."""
    from qedge.toolkit import show
    from qedge.toolkit.measure import measure

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


@cli.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option("--file", "files", multiple=True, type=click.Path(path_type=Path))
@json_option
def tokenize(
    source: Path, texts: tuple[str, ...], files: tuple[Path, ...], as_json: bool
) -> None:
    """Token ids of texts and files, with the vocabulary of an image or GGUF."""
    from qedge.toolkit.encode import encode

    inputs = [os.fsencode(text) for text in texts]
    for file in files:
        try:
            inputs.append(file.read_bytes())
        except OSError as error:
            raise ImageError(f"{file}: {error.strerror}; give a readable file") from error
    if not inputs:
        raise UsageError("nothing to tokenize: give a TEXT or --file FILE")
    found = encode(source, inputs)
    emit(as_json, {"tokens": found[0] if len(found) == 1 else found})
    if not as_json:
        for ids in found:
            print(*ids)


@cli.command("eval")
@click.argument("image")
@click.argument("textfile", type=click.Path(path_type=Path))
@click.option("--chunks", type=int, help="The first so many; default: all.")
@model_options
@json_option
def evaluate(
    image: str, textfile: Path, chunks: int | None, as_json: bool, **options: Any
) -> None:
    """Perplexity of TEXTFILE, by llama.cpp's rule; --context is the chunk (512)."""
    from qedge.toolkit import show
    from qedge.toolkit.evaluate import evaluate as score

    try:
        text = textfile.read_bytes()
    except OSError as error:
        raise ImageError(f"{textfile}: {error.strerror}; give a readable file") from error
    if chunks is not None and chunks < 1:
        raise UsageError(f"--chunks {chunks}: it must be at least 1")
    options["context"] = 512 if options["context"] is None else options["context"]
    with open_model(image, options) as model, show.bar(True) as tell:
        step = (
            (lambda done, of, value: tell(f"perplexity {value:.4f}", done, of))
            if tell
            else None
        )
        found = score(model, text, model.context, chunks, step)
    emit(as_json, asdict(found))
    if not as_json:
        print(
            f"perplexity {found.perplexity:.4f} over {found.scored_tokens:,} tokens in "
            f"{found.chunks} chunks"
        )


@cli.command()
@click.argument("target")
@model_options
@json_option
def test(target: str, as_json: bool, **options: Any) -> None:
    """Run the image's own golden test at TARGET."""
    with open_model(target, options) as model:
        digest = model.test()
        emit(as_json, {"passed": True, "logits_hash": digest, "kernels": model.kernels})
        if not as_json:
            print(f"passed: logits_hash {digest}, kernels {model.kernels}")


@cli.command()
@json_option
def boards(as_json: bool) -> None:
    """List the boards that images can be built for."""
    from qedge.toolkit import board, show

    known = [board.load(name) for name in board.names()]
    here = board.load("host").name
    emit(as_json, {"boards": [asdict(b) for b in known], "host": here})
    if not as_json:
        mark = {here: " (this machine)"}
        rows = {b.name: b.description + mark.get(b.name, "") for b in known}
        show.table("boards", rows, answer=True)


@cli.command()
@click.option(
    "--prompt",
    default="What is the capital of France? Answer in one sentence.",
    show_default=True,
)
@json_option
def demo(prompt: str, as_json: bool) -> None:
    """Fetch SmolLM2-135M, build it for this machine, and let it answer."""
    from qedge.toolkit import show
    from qedge.toolkit.demo import prepare

    with show.bar(True) as tell:
        found = prepare(tell)
    if not as_json:
        show.built(found)
        show.say(f"\n> {prompt}")
    # a process of its own, so that its peak memory is the answer's and not the build's
    command = [sys.executable, "-m", "qedge.toolkit", "run", str(found.image), prompt, "--chat"]
    sys.exit(
        subprocess.run([*command, *(["--json"] if as_json else [])], check=False).returncode
    )


def main() -> None:
    """Entry point: every failure to its exit code; a traceback means a bug."""
    from qedge.toolkit import show

    show.open_streams()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up, as Ctrl-C does
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(2)
    except QedgeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except MemoryError:
        print("BudgetError: the system has no memory left for this", file=sys.stderr)
        sys.exit(BudgetError.exit_code)
