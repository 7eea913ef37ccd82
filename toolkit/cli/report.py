"""The verb that makes a page of measurements."""

from __future__ import annotations

from pathlib import Path

import click

from qedge.toolkit.cli.common import emit, json_option


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The page to write.",
)
@json_option
def report(files: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Make a page, with a table and plots, of FILES that `qedge bench --append` wrote."""
    from qedge.toolkit.cli import show
    from qedge.toolkit.results.report import write_report

    found = write_report(files, output)
    for one in found.skipped:
        show.say(f"skipped {one}")
    runs = len(found.lines)
    emit(as_json, {"output": str(output), "runs": runs, "skipped": found.skipped})
    if not as_json:
        print(f"{output}: {runs} runs")


VERBS = (report,)
