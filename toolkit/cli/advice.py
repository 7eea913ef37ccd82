"""The verb that says what to build."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qedge.toolkit.cli.common import (
    board_with_ram,
    context_value,
    emit,
    json_option,
    ram_option,
)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-b", "--board", help="A board's name; default: host, this machine.")
@click.option(
    "--context",
    default="auto",
    show_default=True,
    help="Tokens, or auto: 2048, or the most that fits.",
)
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Of a llama2.c model.")
@ram_option
@json_option
def advise(
    model: Path,
    board: str | None,
    context: str,
    tokenizer: Path | None,
    ram: str | None,
    as_json: bool,
) -> None:
    """Say which formats of MODEL fit a board, how fast they should be, and which to take."""
    from qedge.toolkit.cli import show
    from qedge.toolkit.make.advise import Choice
    from qedge.toolkit.make.advise import advise as find
    from qedge.toolkit.make.auto import model_for
    from qedge.toolkit.quality.measured import measured_of

    def fields(choice: Choice) -> dict[str, Any]:
        return {
            "quant": choice.quant,
            "embedding": choice.embedding,
            "kv": choice.plan.kv,
            "context": choice.plan.context,
            "image_bytes": choice.plan.image_bytes,
            "arena_bytes": choice.plan.arena_bytes,
            "resident_bytes": choice.plan.resident_bytes,
            "fits": choice.fits,
            "lacks": choice.lacks,
            "longest_context": choice.longest,
            "read_bytes_per_token": choice.prediction.read_bytes_per_token,
            "predicted_tokens_per_second": choice.prediction.tokens_per_second,
            "predicted_tokens_per_second_at_context": choice.deep,
            "predicted_load_seconds": choice.prediction.load_seconds,
            "accuracy": choice.accuracy,
            "smollm2_kl_mean": choice.reference,
            "measured_kl_mean": choice.kl,
        }

    if not os.path.lexists(model):
        with show.bar(True) as tell:
            model = model_for(os.fspath(model), show.say, tell)
    target, tokens = board_with_ram(board or "host", ram), context_value(context)
    found = find(model, target, tokens, tokenizer, measured_of(model, tokenizer))
    emit(
        as_json,
        {
            "model": found.model,
            "board": found.board,
            "stored": found.stored,
            "choices": [fields(choice) for choice in found.choices],
            "picks": {pick.goal: asdict(pick) for pick in found.picks},
            "notes": found.notes,
        },
    )
    if not as_json:
        show.advice(found)
        for note in found.notes:
            print(f"note: {note}")


VERBS = (advise,)
