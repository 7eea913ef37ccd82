"""The verbs that say what a model's answers are worth: of one image, and of the formats."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qedge.runtime import UsageError
from qedge.toolkit.cli.common import (
    emit,
    image_at,
    json_option,
    model_options,
    open_model,
    text_of,
)

_TASKS = ("hellaswag", "multiple_choice", "winogrande")
_TASK_CONTEXT = 1024  # tokens: the longest published tasks have some 500


@click.command("eval")
@click.argument("image")
@click.argument("textfile", required=False, type=click.Path(path_type=Path))
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="As TEXTFILE; - is standard input.",
)
@click.option("--chunks", type=int, help="The first so many; default: all.")
@click.option(
    "--against",
    metavar="IMAGE2",
    help="KL divergence from another image of the same model, usually of f16.",
)
@click.option("--hellaswag", type=click.Path(path_type=Path), help="Tasks, six lines each.")
@click.option(
    "--multiple-choice", type=click.Path(path_type=Path), help="Tasks in a .bin: ARC, MMLU."
)
@click.option("--winogrande", type=click.Path(path_type=Path), help="Tasks in a CSV file.")
@click.option("--tasks", type=int, help="So many of them, as llama.cpp draws; default: all.")
@model_options
@json_option
def evaluate(
    image: str,
    textfile: Path | None,
    text: Path | None,
    chunks: int | None,
    against: str | None,
    tasks: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Perplexity of TEXTFILE (lower is better), by llama.cpp's rule; - reads standard input.
    --context is the chunk: 512, or what the image has if that is less. With --against also how
    far the image's predictions lie from another's; with a file of tasks, how many it answers
    right."""
    for option, value in (("chunks", chunks), ("tasks", tasks)):
        if value is not None and value < 1:
            raise UsageError(f"--{option} {value}: it must be at least 1")
    given = [(name, options[name]) for name in _TASKS if options[name] is not None]
    if len(given) + (textfile is not None) + (text is not None) != 1:
        raise UsageError(
            "give one thing to evaluate: TEXTFILE (or --text FILE), --hellaswag, "
            "--multiple-choice or --winogrande FILE"
        )
    if given:
        if against is not None or chunks is not None:
            raise UsageError("--against and --chunks go with a text, not with tasks")
        _tasks(image, given[0][0].replace("_", "-"), given[0][1], tasks, options, as_json)
        return
    if tasks is not None:
        raise UsageError("--tasks goes with a file of tasks")
    words = text_of(text or textfile or Path("-"))
    if against is None:
        _perplexity(image, words, chunks, options, as_json)
    else:
        _against(image, against, words, chunks, options, as_json)


def _perplexity(
    image: str, text: bytes, chunks: int | None, options: dict[str, Any], as_json: bool
) -> None:
    from qedge.toolkit.cli import show
    from qedge.toolkit.quality.evaluate import evaluate as score

    image = _chunked(image, options)
    with open_model(image, options) as model, show.bar(True) as tell:
        found = score(model, text, model.context, chunks, _step(tell, "perplexity {:.4f}"))
    emit(as_json, asdict(found))
    if not as_json:
        print(
            f"perplexity {found.perplexity:.4f} over {found.scored_tokens:,} tokens in "
            f"{found.chunks} chunks"
        )


def _against(
    image: str,
    base: str,
    text: bytes,
    chunks: int | None,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    from qedge.runtime.sizes import show_size
    from qedge.toolkit.cli import show
    from qedge.toolkit.quality.evaluate import against, memory_bytes

    image = _chunked(image, options)
    with ExitStack() as stack:
        model = stack.enter_context(open_model(image, options))
        other = stack.enter_context(open_model(base, {**options, "context": model.context}))
        held = memory_bytes(model)
        show.say(
            f"memory: arenas of {show_size(model.arena_bytes)} and "
            f"{show_size(other.arena_bytes)}, logits {show_size(held)}, beside the images"
        )
        tell = stack.enter_context(show.bar(True))
        step = _step(tell, "KL {:.4f}")
        found = against(model, other, text, model.context, chunks, step)
        arenas = model.arena_bytes, other.arena_bytes
    told = found.divergence
    emit(
        as_json,
        {
            **asdict(told),
            "chunks": found.chunks,
            "seconds": found.seconds,
            "against": found.against,
            "arena_bytes": arenas[0],
            "against_arena_bytes": arenas[1],
            "logits_bytes": held,
        },
    )
    if not as_json:
        show.table("", divergence_rows(told, found.chunks), answer=True)


def divergence_rows(found: Any, chunks: int) -> dict[str, str]:
    """What a divergence says, for people."""
    return {
        "perplexity": f"{found.perplexity:.4f} ± {found.perplexity_error:.4f}, the other's "
        f"{found.perplexity_base:.4f}",
        "ln of their ratio": f"{found.ln_ratio:.5f} ± {found.ln_ratio_error:.5f} (paired)",
        "KL mean": f"{found.kl_mean:.6f} ± {found.kl_mean_error:.6f} nats a token",
        "KL median": f"{found.kl_median:.6f}",
        "KL 99.9 %": f"{found.kl_999:.6f}",
        "same top token": f"{found.top1:.2%} ± {found.top1_error:.2%}",
        "over": f"{found.scored_tokens:,} tokens in {chunks} chunks; ± is the standard error",
    }


def _tasks(
    image: str, kind: str, path: Path, count: int | None, options: dict[str, Any], as_json: bool
) -> None:
    from qedge.runtime.image import open_image
    from qedge.toolkit.cli import show
    from qedge.toolkit.quality.choices import answer
    from qedge.toolkit.quality.tasks import read_tasks

    found = read_tasks(kind, path)
    image = image_at(image)
    if options["context"] is None:
        options["context"] = min(_TASK_CONTEXT, open_image(image).plan["context"])
    with open_model(image, options) as model, show.bar(True) as tell:
        told = answer(model, found, count, _step(tell, "right {:.1%}"))
    emit(as_json, asdict(told))
    if not as_json:
        print(
            f"{told.kind}: {told.accuracy:.2%} right ({told.right:,} of {told.tasks:,}), 95 %: "
            f"{told.low:.2%} to {told.high:.2%}; chance {told.chance:.2%}"
        )
    if told.skipped:
        show.say(f"note: {path}: {told.skipped:,} lines that are no task were skipped")


def _chunked(image: str, options: dict[str, Any]) -> str:
    """The image, and the chunk among its options: 512 tokens, or what it was built for."""
    from qedge.runtime.image import open_image
    from qedge.toolkit import board
    from qedge.toolkit.cli import show
    from qedge.toolkit.make.auto import image_for
    from qedge.toolkit.quality.evaluate import CHUNK

    with show.bar(True) as tell:
        if image not in board.names():
            image = os.fspath(image_for(image, show.say, tell))
            built = open_image(image).plan["context"]
            if options["context"] is None and built < CHUNK:
                show.say(f"chunks of {built} tokens, the image's context ({CHUNK} is usual)")
                options["context"] = built
        if options["context"] is None:
            options["context"] = CHUNK
    return image


def _step(tell: Any, form: str) -> Any:
    """Progress that shows a figure so far; None where nothing is drawn."""
    if tell is None:
        return None
    return lambda done, of, value: tell("evaluate", done, of, form.format(value))


VERBS = (evaluate,)
