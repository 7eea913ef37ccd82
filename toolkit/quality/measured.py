"""What `compare` measured of a model, kept for whoever asks later: `advise`, for any board."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qedge.runtime.errors import QedgeError
from qedge.toolkit.files import cache_folder
from qedge.toolkit.kept import keep, kept
from qedge.toolkit.quality.digest import model_digest
from qedge.toolkit.source import locate

_KEYS = ("base", "text", "chunks")


def keep_table(
    folder: Path, digest: str, model: Path, like: tuple[Any, ...], formats: Mapping[str, Any]
) -> None:
    """Keeps a model's figures (a Divergence's fields by format) in compare's folder of the
    cache, beside those of the same base, text and chunks (`like`) that are kept already."""
    before = table_of(digest, folder)
    if before and tuple(before[key] for key in _KEYS) == like:
        formats = {**before["formats"], **formats}
    fields = {**dict(zip(_KEYS, like)), "sizes": _sizes(model), "formats": formats}
    keep(_place(folder, digest), json.dumps(fields).encode())


def table_of(digest: str, folder: Path) -> dict[str, Any] | None:
    """base, text, chunks and formats of the last comparison; None where none is kept."""
    data = kept(_place(folder, digest))
    if data is None:
        return None
    found = json.loads(data)
    return found if isinstance(found, dict) and {*_KEYS, "formats"} <= found.keys() else None


def measured_of(
    model: Path, tokenizer: Path | None = None, cache: Path | None = None
) -> dict[str, Any] | None:
    """The table of a model, if there is one. Its files are read only when their sizes are those
    of a model that was compared."""
    folder = cache_folder(cache) / "compare"
    try:
        sizes = _sizes(model)
        tables = list((folder / "tables").glob("*.json"))
        if any(_sizes_in(path) == sizes for path in tables):
            return table_of(model_digest(model, tokenizer), folder)
    except (OSError, QedgeError):
        pass  # what is wrong with the model is said by whoever opens it
    return None


def _sizes_in(path: Path) -> object:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found.get("sizes") if isinstance(found, dict) else None


def _sizes(model: Path) -> list[int]:
    return [file.stat().st_size for file in locate.model_files(model)]


def _place(folder: Path, digest: str) -> Path:
    return folder / "tables" / f"{digest[:32]}.json"
