"""The verbs of models and images: from a file to an image, and what is in it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qedge.runtime import UsageError
from qedge.toolkit.cli.budget import Asked, allocated, budget_options, is_auto
from qedge.toolkit.cli.common import (
    board_with_ram,
    context_value,
    emit,
    identity_option,
    json_option,
    ram_option,
    refuse_board,
    text_of,
)

if TYPE_CHECKING:
    from qedge.toolkit.quant.recipe import Recipe


@click.command()
@click.argument("name")
@json_option
def pull(name: str, as_json: bool) -> None:
    """Fetch a model: smollm2-135m, or hf:ORG/REPO/FILE."""
    from qedge.toolkit.cli import show
    from qedge.toolkit.fetch.pull import pull as fetch

    with show.bar(True) as tell:
        found = fetch(
            name, progress=(lambda done, of: tell("fetch", done, of)) if tell else None
        )
    fields = {"path": found.path, "bytes": found.bytes, "sha256": found.sha256}
    emit(as_json, {**fields, "note": found.note})
    if found.note:
        show.say(f"note: {found.note}")
    if not as_json:
        print(found.path)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-b", "--board", help="A board's name; default: host, this machine.")
@click.option(
    "-q",
    "--quant",
    help="A type, a mixture, keep or auto; default: keep what is quantized, else a4_M or q8_0.",
)
@budget_options
@click.option("--recipe", type=click.Path(path_type=Path), help="A file with every type.")
@click.option(
    "--context", default="auto", show_default=True, help="Tokens, or auto: the most that fits."
)
@click.option("--kv", help="KV cache: q8_0, f16 or f32; default: q8_0 for quantized images.")
@click.option("--embedding", help="Type of embedding and output; default: q8_0 for q4_0.")
@click.option(
    "--calibrate",
    default="samples",
    show_default=True,
    help="What shows which weights matter: samples (of the model itself), a text, or none.",
)
@click.option(
    "--rounding",
    type=click.Choice(["search", "ggml"]),
    default="search",
    show_default=True,
    help="ggml: q4_0 and q8_0 rounded as llama.cpp does without an importance matrix.",
)
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Of a llama2.c model.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Default: MODEL-QUANT.qimg here, or MODEL-QUANT-BOARD.qimg for another machine.",
)
@ram_option
@click.option("--sign", type=click.Path(path_type=Path), help="Sign it with a private key.")
@click.option("--counter", default=0, show_default=True, help="The signature's counter.")
@json_option
def build(
    model: Path,
    board: str | None,
    quant: str | None,
    recipe: Path | None,
    asked: Asked,
    context: str,
    kv: str | None,
    embedding: str | None,
    calibrate: str,
    rounding: str,
    tokenizer: Path | None,
    output: Path | None,
    ram: str | None,
    sign: Path | None,
    counter: int,
    as_json: bool,
) -> None:
    """Quantize MODEL, a file, a folder or a name that `pull` knows, and pack it into one image
    for a board, or for this machine."""
    from qedge.toolkit.cli import show
    from qedge.toolkit.make.auto import model_for
    from qedge.toolkit.make.build import build as build_image

    chosen = board_with_ram(board or "host", ram)
    if not os.path.lexists(model):
        with show.bar(True) as tell:
            model = model_for(os.fspath(model), show.say, tell)
    key = None
    if sign is not None:
        from qedge.toolkit.make import signature

        key = signature.private_key(sign)
    types: Path | Recipe | None = recipe
    tokens = context_value(context)
    notes: list[str] = []
    if is_auto(quant, recipe, asked):
        for option, given in (("--recipe", recipe), ("--embedding", embedding)):
            if given is not None:
                raise UsageError(f"{option} {given}: --quant auto says every type")
        if rounding != "search":
            raise UsageError(
                f"--rounding {rounding}: --quant auto takes types that are searched"
            )
        with show.bar(True) as tell:
            best = allocated(
                asked,
                model,
                chosen,
                context=tokens,
                kv=kv,
                tokenizer=tokenizer,
                progress=tell,
            )
        quant, types, tokens = None, best.recipe, best.plan.context
        notes.append(show.allocation(best))
    else:
        asked.refuse()
    with show.bar(True) as tell:
        found = build_image(
            model,
            chosen,
            output,
            quant=quant,
            recipe=types,
            context=tokens,
            kv=kv,
            embedding=embedding,
            tokenizer=tokenizer,
            calibrate=calibrate,
            rounding=rounding,
            progress=tell,
        )
    if key is not None:
        signature.sign(found.image, key, counter)
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
            "predicted_tokens_per_second": found.tokens_per_second,
            "predicted_load_seconds": found.load_seconds,
            "seconds": found.seconds,
            "notes": found.notes,
        },
    )
    if not as_json:
        show.built(found)
    notes += found.notes
    if board is None:
        notes.insert(0, f"for this machine ({chosen.name}); -b names another board")
    for note in notes:
        show.say(f"note: {note}")


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Check every byte against the hash tree.")
@json_option
def inspect(image: Path, verify: bool, as_json: bool) -> None:
    """Show what is in IMAGE: sections, plan and provenance; of a model's file or folder, what
    an image of it would be made from."""
    from qedge.toolkit.cli import show
    from qedge.toolkit.make.describe import describe

    refuse_board(os.fspath(image))
    found = describe(image, verify)
    emit(as_json, found)
    if not as_json:
        for title, rows in found.items():
            if isinstance(rows, dict):
                show.table(title, rows, answer=True)
            else:
                told = "not checked (--verify does)" if rows is None else rows
                show.table("", {title: told}, answer=True)


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A file's text, to the last byte; may be repeated.",
)
@click.option(
    "--special",
    is_flag=True,
    help="Control tokens that are written in a text count, as <|im_start|>.",
)
@json_option
def tokenize(
    source: Path, texts: tuple[str, ...], files: tuple[Path, ...], special: bool, as_json: bool
) -> None:
    """Token ids of texts and files, with the vocabulary of an image or GGUF."""
    from qedge.toolkit.make.encode import encode

    inputs = [os.fsencode(text) for text in texts]
    inputs += [text_of(file) for file in files]
    if not inputs:
        raise UsageError("nothing to tokenize: give a TEXT or --file FILE")
    refuse_board(os.fspath(source))
    found = encode(source, inputs, special)
    emit(as_json, {"tokens": found[0] if len(found) == 1 else found})
    if not as_json:
        for ids in found:
            print(*ids)


@click.command()
@click.option("--connected", is_flag=True, help="Those that answer now, at serial ports.")
@click.option(
    "-p",
    "--port",
    "ports",
    multiple=True,
    help="With --connected: look here instead, at a serial port or user@host; several times.",
)
@identity_option
@json_option
def boards(
    connected: bool, ports: tuple[str, ...], identity: str | None, as_json: bool
) -> None:
    """List the boards that images can be built for, or those that answer now."""
    from qedge.toolkit import board
    from qedge.toolkit.cli import show

    if ports and not connected:
        raise UsageError("--port goes with --connected")
    if connected:
        from qedge.toolkit.cli.device import list_connected

        list_connected(ports, identity, as_json)
        return
    known = board.every()
    for wrong in board.wrong_files():
        show.say(f"warning: {wrong}; it is left out")
    here = board.load("host").name
    emit(as_json, {"boards": [asdict(b) for b in known], "host": here})
    if not as_json:
        mark = {here: " (this machine)"}
        rows = {b.name: b.description + mark.get(b.name, "") for b in known}
        show.table("boards", rows, answer=True)


@click.command()
@click.option("--prompt", help="What to ask, or to command.")
@click.option("--board", "name", help="Show it on an emulated board (pico, mps2-m4, …).")
@json_option
def demo(prompt: str | None, name: str | None, as_json: bool) -> None:
    """Fetch SmolLM2-135M, build it for this machine, and let it answer; or, with --board, put
    commander on an emulated board and command it."""
    from qedge.toolkit.cli import show
    from qedge.toolkit.demo import COMMAND, on_board, prepare

    if name is not None:
        steps = {}
        with show.bar(True) as tell:
            for step in on_board(name, prompt or COMMAND, progress=tell):
                steps[step.title] = step.found
                if not as_json:
                    show.table(step.title, step.found, answer=True)
        emit(as_json, steps)
        return
    prompt = prompt or "What is the capital of France? Answer in one sentence."
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


VERBS = (pull, build, inspect, tokenize, boards, demo)
