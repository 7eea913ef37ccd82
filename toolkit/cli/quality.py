"""The verbs that say what a model's answers are worth: of one image, and of the formats."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qedge.runtime import UsageError
from qedge.toolkit.cli.common import (
    board_with_ram,
    check_identity,
    context_value,
    emit,
    image_at,
    json_option,
    model_options,
    open_model,
    port_option,
    ram_option,
    refuse,
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


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-b", "--board", help="A board's name; default: host, this machine.")
@click.option("-q", "--quant", "quants", help="Formats with commas; default: all there are.")
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="A text to evaluate, - is standard input; default: samples of the model itself.",
)
@click.option("--chunks", type=int, help="Of 512 tokens; default: all of a text, 24 samples.")
@click.option(
    "--context", default="auto", show_default=True, help="Of the images: tokens, or auto."
)
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Of a llama2.c model.")
@click.option("--csv", type=click.Path(path_type=Path), help="Also write the table there.")
@click.option("--html", type=click.Path(path_type=Path), help="Also write a page with plots.")
@click.option("--png", type=click.Path(path_type=Path), help="Also write the plots.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="Processes; default: 1.")
@click.option("--dask", metavar="ADDRESS", help="Evaluate on a Dask cluster: tcp://host:8786.")
@ram_option
@port_option
@json_option
def compare(
    model: Path,
    board: str | None,
    quants: str | None,
    text: Path | None,
    chunks: int | None,
    context: str,
    tokenizer: Path | None,
    csv: Path | None,
    html: Path | None,
    png: Path | None,
    workers: int,
    dask: str | None,
    ram: str | None,
    port: str | None,
    identity: str | None,
    as_json: bool,
) -> None:
    """Measure the formats of MODEL: size, speed, and what each loses against the file's own
    precision; and say which to take. What was measured is kept, and not measured again."""
    from qedge.runtime.text import printable
    from qedge.toolkit.cli import show
    from qedge.toolkit.make.auto import model_for
    from qedge.toolkit.make.build import check_output
    from qedge.toolkit.quality import table
    from qedge.toolkit.quality.compare import Way
    from qedge.toolkit.quality.compare import compare as measure

    if dask is not None and workers > 1:
        raise UsageError("--workers are processes here, --dask others: give one of them")
    for output in filter(None, (csv, html, png)):
        check_output(output)  # before an hour is spent
    target = board_with_ram(board or "host", ram)
    if port is None:
        refuse(("identity",), "goes with --port")
    else:
        check_identity(target)
    words = None if text is None else text_of(text)
    tokens = context_value(context)
    if not os.path.lexists(model):
        with show.bar(True) as tell:
            model = model_for(os.fspath(model), show.say, tell)
    with _kept_so_far(), show.bar(True, lines=True) as tell:
        found = measure(
            model,
            target,
            quant=[one for one in (quants or "").replace(",", " ").split() if one],
            text=words,
            text_name="standard input" if str(text) == "-" else (text.name if text else ""),
            chunks=chunks,
            context=None if tokens == "auto" else int(tokens),
            tokenizer=tokenizer,
            reached=None if port is None else (port, identity),
            way=Way(workers, dask),
            say=show.say,
            progress=tell,
        )
    if csv is not None:
        table.write_csv(found, csv)
    if html is not None or png is not None:
        from qedge.toolkit.quality import page

        if html is not None:
            page.write_page(found, html)
        if png is not None:
            page.write_picture(found, png)
    emit(as_json, table.fields(found))
    if not as_json:
        for line in table.lines(found):
            print(printable(line))
    for note in found.notes:
        show.say(f"note: {note}")


@contextmanager
def _kept_so_far() -> Iterator[None]:
    """Says what an interrupted comparison leaves behind."""
    from qedge.toolkit.cli import show

    try:
        yield
    except KeyboardInterrupt:
        show.say("what was measured is kept; run this again, and it goes on")
        raise


VERBS = (evaluate, compare)
