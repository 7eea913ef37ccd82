"""The demonstration: a real model from its file to an image for this machine."""

from __future__ import annotations

from pathlib import Path

from qedge.toolkit.board import load
from qedge.toolkit.build import Built, Progress, build
from qedge.toolkit.pull import cache_folder, pull

MODEL, QUANT, CONTEXT = "smollm2-135m", "q8_0", 2048


def prepare(progress: Progress | None = None) -> Built:
    """Fetches the model (once) and builds its image into the cache."""
    fetched = pull(
        MODEL, progress=(lambda done, of: progress("fetch", done, of)) if progress else None
    )
    folder = cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    output: Path = folder / f"{MODEL}-{QUANT}.qimg"
    return build(
        fetched.path, load("host"), output, quant=QUANT, context=CONTEXT, progress=progress
    )
