"""What people see: tables and progress bars, on standard error unless it is the answer itself.
Whatever comes from models, boards and files is shown with its control characters visible.
"""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qedge.runtime.sizes import show_size
from qedge.runtime.text import printable

if TYPE_CHECKING:
    from qedge.toolkit.allocate.allocation import Allocated
    from qedge.toolkit.make.advise import Advice, Choice
    from qedge.toolkit.make.build import Built


STREAMS = {"stdout": "standard output", "stderr": "standard error"}


class Stream(io.TextIOWrapper):
    """A standard stream whose failures carry its name, so that nothing else is blamed on it."""

    title = ""

    def write(self, text: str) -> int:
        with self._named():
            return super().write(text)

    def flush(self) -> None:
        with self._named():
            super().flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = self.title
            raise


def open_streams() -> None:
    """Streams that the caller closed are empty; letters that one cannot write become marks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for name, title in STREAMS.items():
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, Stream):
            errors = "replace" if name == "stdout" else stream.errors
            lines, through = stream.line_buffering, stream.write_through
            encoding = stream.encoding
            made = Stream(stream.detach(), encoding, errors, None, lines, through)
            made.title = title
            setattr(sys, name, made)


def discard(title: str) -> None:
    """A standard stream goes nowhere from here on: what it holds must not fail at exit."""
    for name, of in STREAMS.items():
        if of == title:
            os.dup2(os.open(os.devnull, os.O_WRONLY), getattr(sys, name).fileno())


def say(text: str) -> None:
    """A line on standard error, or several."""
    print(printable(text, keep="\n\t"), file=sys.stderr, flush=True)


def piece(text: str) -> None:
    """A piece of generated text, on standard output. A program gets what the model wrote, a
    terminal what is safe to show there: a model can write escape sequences, too."""
    if sys.stdout.isatty():
        text = printable(text, keep="\n\t")
    print(text, end="", flush=True)


def table(title: str, rows: Mapping[str, Any], *, answer: bool = False) -> None:
    """Two columns; on standard output when the table is what was asked for."""
    from rich.console import Console
    from rich.table import Table

    title = printable(title)
    grid = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for key, value in rows.items():
        grid.add_row(printable(key), printable(str(value)))
    stream = sys.stdout if answer else sys.stderr
    width = None if stream.isatty() else 1000  # nothing is folded for another program
    console = Console(stderr=not answer, highlight=False, markup=False, width=width)
    with console.capture() as drawn:  # rich would end the process on a broken pipe
        console.print(grid)
    lines = (line.rstrip() for line in drawn.get().splitlines())
    print("\n".join(lines), file=stream, flush=True)


@contextmanager
def bar(enabled: bool, *, lines: bool = False) -> Iterator[Callable[..., None] | None]:
    """A progress bar for (step, done, of) calls, or (step, done, of, what it is called now).
    Without a terminal there is none; with `lines` each step is said there when it begins."""
    if not enabled or not sys.stderr.isatty():
        begun: set[str] = set()

        def name(step: str, done: int, of: int, called: str = "") -> None:
            if step not in begun:
                begun.add(step)
                say(step)

        yield name if enabled and lines else None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def tell(step: str, done: int, of: int, called: str = "") -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=of)
            progress.update(tasks[step], completed=done, total=of, description=called or step)

        yield tell


def built(found: Built) -> None:
    """The memory plan of a build."""
    plan = found.plan
    resident = f"{show_size(plan.resident_bytes)} at most (image, arena, runtime)"
    if plan.bare:
        resident = "the arena; the image stays in flash"
    table(
        f"{found.image}",
        {
            "image id": found.image_id,
            "board": found.board,
            "types": f"{found.quant}, embedding and output {found.embedding}, KV {plan.kv}",
            "context": f"{plan.context:,} tokens",
            "image": f"{found.bytes:,} B, used in place",
            "arena": f"{plan.arena_bytes:,} B: all that is ever allocated",
            "resident": resident,
            **_predicted(found),
            "built in": f"{found.seconds:.1f} s, golden test passed",
        },
    )


def allocation(found: Allocated) -> str:
    """What an allocation says of itself."""
    counts = Counter(found.recipe.types.values())
    types = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    above = 0.0 if found.loss <= found.bound else 1 - found.bound / found.loss
    return (
        f"--quant auto: {types}; its weights lose about {found.loss:.4f} nats a token, within "
        f"{above:.1%} of the best there is by that estimate"
    )


def _predicted(found: Built) -> dict[str, str]:
    """What is expected of the board, from others' figures; nothing when it is not known."""
    parts = []
    if found.tokens_per_second is not None:
        parts.append(f"decode {rate(found.tokens_per_second)}")
    if found.load_seconds is not None:
        parts.append(f"load {found.load_seconds:,.1f} s")
    return {"predicted": f"{', '.join(parts)} (docs/prediction.md)"} if parts else {}


def advice(found: Advice) -> None:
    """The formats that a board could have, and which to take: the answer itself."""
    known = any(choice.prediction.tokens_per_second for choice in found.choices)
    heads = ["format", "context", "image", "arena", "resident", "fits", "KL"]
    heads += ["tokens/s", "when full", "load"] if known else []
    rows = []
    for choice in found.choices:
        plan = choice.plan
        row = [choice.quant, f"{plan.context:,}"]
        row += [show_size(n) for n in (plan.image_bytes, plan.arena_bytes, plan.resident_bytes)]
        row += ["yes" if choice.fits else "no", _loss(choice)]
        if known:
            load = choice.prediction.load_seconds
            rates = (choice.prediction.tokens_per_second, choice.deep)
            row += ["-" if value is None else f"{value:,.1f}" for value in rates]
            row.append("-" if load is None else f"{load:,.1f} s")
        rows.append(row)
    print(printable(f"{found.model} (mostly {found.stored}) on {found.board}"))
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
    for row in [heads, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    for choice in found.choices:
        if choice.lacks is not None:
            print(f"{choice.quant} {choice.lacks}")
    for pick in found.picks:
        print(f"{pick.goal}: {pick.quant}: {pick.reason}")
    if known:
        print("tokens/s (with an empty and with a full context) and load are predicted")
    else:
        print("no speed is predicted: no published figure is known for this board")


def _loss(choice: Choice) -> str:
    """KL in nats a token; ~ before another model's."""
    if choice.loss is None:
        return "-"
    another = "~" if choice.kl is None and choice.loss else ""
    return f"{another}{choice.loss:.4f}" if choice.loss else "0"


def rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} tokens/s"


def ran(fields: Mapping[str, Any]) -> None:
    """What a generation took, on standard error."""
    if "logits_hash" in fields:
        say(f"logits_hash {fields['logits_hash']}")
    if "board_id" in fields:
        _there(fields)
        return
    first = fields["ttft_seconds"]
    say(
        f"prefill {rate(fields['prefill_tokens_per_second'])} "
        f"({fields['prompt_tokens']} tokens), decode "
        f"{rate(fields['decode_tokens_per_second'])} ({fields['generated_tokens']}), "
        f"first token {'-' if first is None else f'{first * 1000:.0f} ms'}, "
        f"ended by {fields['finish_reason']}\n"
        f"arena {show_size(fields['arena_bytes'])}, peak resident "
        f"{show_size(fields['peak_rss_bytes'])} of {show_size(fields['resident_bytes'])} "
        f"planned, kernels {fields['kernels']}"
    )


def measured(title: str, results: Mapping[str, Any]) -> None:
    """What was measured, on standard output; of an emulated board no speed."""
    if results.get("samples") is None:  # a microcontroller, which knows its own times alone
        _there(results)
        return
    rows = {} if results.get("emulated") else _speeds(results)
    if (predicted := results.get("predicted_tokens_per_second")) is not None:
        rows["predicted"] = f"{rate(predicted)} at depth {results['depth']}"
    rows["threads"] = (
        f"{results['threads']}, kernels {results['kernels']}, median of {results['repeat']}"
    )
    rows["arena"] = (
        f"{results['arena_bytes']:,} B, peak resident {results['peak_rss_bytes']:,} B"
    )
    if results["joules_per_token"] is not None:
        rows["energy"] = (
            f"{results['joules_per_token']:.3f} J a token at {results['decode_watts']:.2f} W "
            f"(before: {results['idle_watts']:.2f} W)"
        )
    table(title, rows, answer=True)


def _speeds(results: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    prefill = results["prefill"]
    rows[f"prefill of {prefill['prompt_tokens']}"] = rate(
        prefill["tokens_per_second"]
    ) + _known(prefill)
    for number, one in enumerate(results["decode"]):
        at = f"decode at {one['depth']}" if number else "decode"
        rows[at] = f"{rate(one['tokens_per_second'])} at depth {one['depth']}{_known(one)}"
    opened = f"{results['first_answer_seconds'] * 1000:.0f} ms with opening"
    share = results["cached_share_at_open"]
    cached = "" if share is None else f", {share:.0%} of the image in memory"
    rows["first token"] = f"{results['ttft_seconds'] * 1000:.1f} ms; {opened}{cached}"
    return rows


def _known(one: Mapping[str, Any]) -> str:
    """A median's interval."""
    bounds = one["interval"]
    return "" if bounds is None else f" (95 %: {bounds[0]:,.1f} to {bounds[1]:,.1f})"


def _there(fields: Mapping[str, Any]) -> None:
    """What a board measured, on standard error."""
    emulated = fields.get("emulated", False)
    rows = {}
    for key, title in (
        ("prefill_tokens_per_second", "prefill"),
        ("decode_tokens_per_second", "decode"),
        ("ttft_seconds", "first token, seconds"),
        ("emulated_instructions_per_prompt_token", "instructions a prompt token (emulated)"),
        ("emulated_instructions_per_token", "instructions a token (emulated)"),
        ("arena_bytes", "arena of the board, bytes"),
        ("image_arena_bytes", "of which the image uses"),
        ("stack_used_bytes", "stack used, bytes"),
        ("kernels", "kernels"),
    ):
        value = fields.get(key)
        if value is not None and (emulated or not key.startswith("emulated")):
            rows[title] = f"{value:,.2f}" if isinstance(value, float) else value
    table("", rows)
