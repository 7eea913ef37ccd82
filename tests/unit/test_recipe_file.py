"""Recipes as files: what they say, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qedge.runtime.errors import ImageError, UsageError
from qedge.runtime.image import open_image, provenance_of
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build
from qedge.toolkit.quant.recipe_file import read_recipe, write_recipe
from qedge.toolkit.source.opening import open_source

TYPES = {"*": "a4", "blk.*.attn_v.weight": "A6", "blk.1.attn_v.weight": "q8_0"}


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(types: Any = TYPES, **fields: Any) -> Path:
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({"recipe": 1, "types": types, **fields}))
        return path

    return write


def test_the_last_pattern_that_fits_says_the_type(written, tiny_gguf: Path):
    found = read_recipe(written(name="mine"), open_source(tiny_gguf))
    assert (found.quant, found.embedding, found.kv) == ("mine", "a4", "q8_0")
    assert found.type_of("blk.0.attn_v.weight") == "a6"
    assert found.type_of("blk.1.attn_v.weight") == "q8_0"
    assert found.type_of("blk.1.ffn_down.weight") == "a4"
    assert found.type_of("blk.1.ffn_norm.weight") == "f32"


def test_what_was_written_is_read(written, tiny_gguf: Path, tmp_path: Path):
    source = open_source(tiny_gguf)
    found = read_recipe(written(kv="f16", estimated_kl=0.25), source)
    again = tmp_path / "again.json"
    write_recipe(again, found, {"estimated_kl": 0.25, "image_bytes": 5})
    assert read_recipe(again, source) == found
    assert read_recipe(again, source, "f32").kv == "f32"


def test_an_image_has_the_types(written, tiny_gguf: Path, tmp_path: Path):
    built = build(tiny_gguf, load("x86-64"), tmp_path / "i.qimg", recipe=written(name="mine"))
    assert built.quant == "mine"
    image = open_image(built.image)
    assert provenance_of(image)["recipe"]["quant"] == "mine"
    kinds = {size for *_, size in image.tensors()}
    assert len(kinds) > 3
    with pytest.raises(UsageError, match="--quant a4: --recipe says every type"):
        build(tiny_gguf, load("x86-64"), tmp_path / "i.qimg", recipe=written(), quant="a4")


@pytest.mark.parametrize(
    ("types", "told"),
    [
        ({"blk.*": "a4"}, "says no type for token_embd.weight"),
        ({"*": "a4", "blk.7.*": "a5"}, "blk.7.* fits no matrix of tiny"),
        ({"*": "a9"}, r"\*: a9: no such type here"),
        ({"*": "keep"}, r"\*: keep: no such type here"),
    ],
)
def test_a_recipe_of_another_model_is_refused(written, tiny_gguf: Path, types, told):
    with pytest.raises(UsageError, match=told):
        read_recipe(written(types), open_source(tiny_gguf))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "is no recipe of form 1"),
        (b'{"recipe": 2, "types": {"*": "a4"}}', "is no recipe of form 1"),
        (b'{"recipe": 1}', "has no types"),
        (b'{"recipe": 1, "types": {"*": 4}}', r"\* is 4, not a type's name"),
        (b'{"recipe": 1, "types": {"*": "a4"}, "kv": null}', "kv is None"),
        (b'{"recipe": 1, "types": {"*": "a4"}, "name": "../x"}', "name is '../x'"),
        (b'{"recipe": 1, "types": {"*": "a4"}, "estimated_kl": "no"}', "estimated_kl is 'no'"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, tiny_gguf: Path, text: bytes, told: str):
    path = tmp_path / "bad.json"
    path.write_bytes(text)
    with pytest.raises(ImageError, match=told):
        read_recipe(path, open_source(tiny_gguf))
    with pytest.raises(ImageError, match="No such file"):
        read_recipe(tmp_path / "none.json", open_source(tiny_gguf))
