"""Recipes as files: JSON that says the type of each matrix of a model, by name or by pattern.

    {"recipe": 1, "name": "mine", "kv": "q8_0",
     "types": {"*": "a4", "blk.*.attn_v.weight": "a6", "token_embd.weight": "q8_0"}}

The last pattern that fits a name says its type. Whatever else stands there (budget, predicted
loss) is for people.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qedge.runtime._engine import KV_TYPES
from qedge.runtime.errors import ImageError, UsageError
from qedge.toolkit.files import new_file, opened
from qedge.toolkit.quant.recipe import (
    LONGEST_NAME,
    MADE,
    Recipe,
    kv_for,
    matrices_of,
    type_named,
)

if TYPE_CHECKING:
    from qedge.toolkit.source.model import SourceModel

FORM = 1
MOST_BYTES = 16 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_WHERE = "see docs/formats.md for a recipe's form"


def read_recipe(path: Path, source: SourceModel, kv: str | None = None) -> Recipe:
    """A file's recipe for a model; kv: instead of the file's. ImageError for a file that is no
    recipe, UsageError for one that is not of this model: a pattern that fits no matrix, a
    matrix without a type, a type that is not made here."""
    found = _fields(path)
    name, types = found.get("name", "recipe"), found["types"]
    if (
        not isinstance(name, str)
        or not _NAME.fullmatch(name[:LONGEST_NAME])
        or len(name) > LONGEST_NAME
    ):
        raise ImageError(
            f"{path}: name is {name!r}; up to {LONGEST_NAME} letters, digits, . _ + and -"
        )
    names = list(matrices_of(source))
    chosen: dict[str, str] = {}
    for pattern, kind in types.items():
        kind = type_named(f"{path}: {pattern}:", kind, MADE)
        fitting = [one for one in names if fnmatch.fnmatchcase(one, pattern)]
        if not fitting:
            raise UsageError(
                f"{path}: {pattern} fits no matrix of {source.config.name}; is it a recipe of "
                "another model?"
            )
        chosen.update(dict.fromkeys(fitting, kind))
    if missing := [one for one in names if one not in chosen]:
        raise UsageError(f"{path}: says no type for {missing[0]}; add one, or a pattern *")
    stated = found.get("kv")
    if kv is None and stated is not None:
        kv = type_named(f"{path}: kv", stated, KV_TYPES)
    loss = found.get("estimated_kl")
    if loss is not None and not isinstance(loss, (int, float)):
        raise ImageError(f"{path}: estimated_kl is {loss!r}, not a number")
    ordered = {one: chosen[one] for one in names}
    return Recipe(name, ordered["token_embd.weight"], kv or kv_for(ordered), ordered, loss)


def write_recipe(path: Path, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    """Writes a recipe, whole or not at all. facts: for people. WriteError."""
    fields = {"recipe": FORM, "name": recipe.quant, **facts, "kv": recipe.kv}
    text = json.dumps({**fields, "types": dict(recipe.types)}, indent=1, ensure_ascii=False)
    with new_file(path) as file:
        file.write(text.encode() + b"\n")


def _fields(path: Path) -> dict[str, Any]:
    try:
        with opened(path) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; give a recipe's file") from None
    if len(data) > MOST_BYTES:
        raise ImageError(f"{path}: has more than {MOST_BYTES >> 20} MiB; it is no recipe")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{path}: is no JSON ({error}); {_WHERE}") from None
    if not isinstance(found, dict) or found.get("recipe") != FORM:
        raise ImageError(f"{path}: is no recipe of form {FORM}; {_WHERE}")
    types = found.get("types")
    if not isinstance(types, dict) or not types:
        raise ImageError(f"{path}: has no types; {_WHERE}")
    for key, kind in {**types, "kv": found.get("kv", "")}.items():
        if not isinstance(kind, str):
            raise ImageError(f"{path}: {key} is {kind!r}, not a type's name; {_WHERE}")
    return found
