"""A comparison as one self-contained page, and its plots as a PNG file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qedge.runtime.errors import ToolError
from qedge.toolkit.files import new_file
from qedge.toolkit.quality.compare import Comparison, Format
from qedge.toolkit.quality.speeds import MEASURED, UNKNOWN
from qedge.toolkit.quality.statistics import interval
from qedge.toolkit.quality.table import HEADS, cells, title
from qedge.toolkit.results import pages
from qedge.toolkit.results.scatter import Axis, Scatter, Spot, scatter, shades

# From the slowest to the fastest; the page and the PNG have the same.
COLOURS = ("#3b4cc0", "#4f9bd9", "#7a7a7a", "#e8863b", "#b40426")
MB = 1e6


def plots(found: Comparison) -> list[Scatter]:
    """Quality against size and against speed; of the base, which loses nothing, no dot."""
    rows = [row for row in found.formats if not row.is_base]
    colours = shades([row.speed.decode for row in rows])
    lost = "mean KL divergence, nats a token"
    sizes = [_spot(row, row.facts.bytes / MB, colour) for row, colour in zip(rows, colours)]
    speeds = [_spot(row, row.speed.decode or 0.0, colour) for row, colour in zip(rows, colours)]
    drawn = (
        scatter("Quality against size", "MB of image", lost, sizes),
        scatter("Quality against speed", "tokens a second, decode", lost, speeds),
    )
    return [one for one in drawn if one is not None]


def _spot(row: Format, x: float, shade: int | None) -> Spot:
    low, high = interval(row.quality.kl_mean, row.quality.kl_mean_error)
    rate = "no speed" if row.speed.decode is None else f"{row.speed.decode:,.1f} tokens/s"
    text = f"{row.quant}: {row.facts.bytes / MB:,.1f} MB, KL {row.quality.kl_mean:.5f}, {rate}"
    if row.speed.how not in (MEASURED, UNKNOWN):
        text += f" ({row.speed.how})"
    hollow = row.speed.how != MEASURED
    return Spot(x, row.quality.kl_mean, row.quant, text, shade, low, high, hollow)


def write_page(found: Comparison, path: Path) -> None:
    """The page. Whatever a model says of itself is text on it, never markup. WriteError."""
    pages.write(render(found), path)


def render(found: Comparison) -> str:
    return pages.render(
        "quality/compare.html",
        title=title(found),
        plots=plots(found),
        colours=COLOURS,
        heads=HEADS,
        rows=[(row, cells(row)) for row in found.formats],
        picks=found.picks,
        notes=found.notes,
        base=found.base,
    )


def write_picture(found: Comparison, path: Path) -> None:
    """The plots as a PNG file, by matplotlib. ToolError without it, WriteError."""
    try:
        import matplotlib
        import matplotlib.ticker

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise ToolError("--png needs matplotlib: pip install 'qedge[plots]'") from None
    rows = [row for row in found.formats if not row.is_base and row.quality.kl_mean > 0]
    colours = shades([row.speed.decode for row in rows])
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    measures: tuple[tuple[Callable[[Format], float | None], str], ...] = (
        (lambda row: row.facts.bytes / MB, "MB of image (decode: blue slow, red fast)"),
        (lambda row: row.speed.decode, "tokens a second, decode (hollow: not measured)"),
    )
    for axis, (measure, label) in zip(axes, measures):
        for row, shade in zip(rows, colours):
            x = measure(row)
            if not x:
                continue
            low, high = interval(row.quality.kl_mean, row.quality.kl_mean_error)
            kl, colour = row.quality.kl_mean, "black" if shade is None else COLOURS[shade]
            fill = colour if row.speed.how == MEASURED else "none"
            axis.plot([x, x], [max(low, kl / 10), high], color=colour, linewidth=1)
            axis.scatter([x], [kl], s=45, facecolors=fill, edgecolors=colour, zorder=3)
            axis.annotate(row.quant, (x, kl), xytext=(7, 3), textcoords="offset points")
        xs = [x for row in rows if (x := measure(row))]
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.set_ylabel("mean KL divergence, nats a token")
        axis.margins(x=0.15)
        if xs:
            ticks = Axis(xs).ticks()
            axis.set_xticks(ticks, [f"{value:,g}" for value in ticks])
            axis.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axis.grid(True, which="both", alpha=0.25)
    figure.suptitle(title(found), fontsize=9, parse_math=False)
    with new_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)
