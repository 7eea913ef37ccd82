"""Types by the names that people have: taken when they are the same, answered when not; and
what each matrix of a model becomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime import UsageError
from qedge.toolkit.quant.recipe import QUANTS, Recipe, default_quant, kept_type
from qedge.toolkit.source.model import SourceModel
from qedge.toolkit.source.opening import open_source


@pytest.fixture
def source(tiny_gguf: Path) -> SourceModel:
    return open_source(tiny_gguf)


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("Q4_0", "q4_0"),
        ("q8-0", "q8_0"),
        (" F16 ", "f16"),
        ("fp16", "f16"),
        ("FP32", "f32"),
        ("float16", "f16"),
        ("half", "f16"),
        ("BF16", "bf16"),
        ("Q5_K_M", "q5_K_M"),
        ("q4_k", "q4_K_M"),
        ("A4", "a4"),
        ("a4_m", "a4_M"),
        ("IQ4_NL", "iq4_nl"),
    ],
)
def test_a_type_by_any_of_its_names_is_that_type(
    named: str, found: str, source: SourceModel
) -> None:
    assert Recipe.of(source, named, None, None).quant == found


@pytest.mark.parametrize(
    ("named", "nearest"),
    [
        ("IQ4_XS", "a4"),
        ("4bit", "a4"),
        ("4-bit", "a4"),
        ("int4", "a4"),
        ("NF4", "a4"),
        ("MXFP4", "a4"),
        ("fp4", "a4"),
        ("w4a16", "a4"),
        ("awq", "a4"),
        ("IQ1_S", "a2"),
        ("TQ2_0", "a2"),
        ("3bit", "a3"),
        ("q5_x", "a5"),
        ("6bit", "a6"),
        ("Q8", "q8_0"),
        ("8bit", "q8_0"),
        ("int8", "q8_0"),
        ("w8a8", "q8_0"),
        ("fp8", "q8_0"),
        ("bfloat16", "bf16"),
        ("16bit", "f16"),
        ("32-bit", "f32"),
        ("f64", "f32"),
    ],
)
def test_a_type_that_is_not_made_is_answered_with_the_nearest(
    named: str, nearest: str, source: SourceModel
) -> None:
    with pytest.raises(UsageError) as refused:
        Recipe.of(source, named, None, None)
    assert f"the nearest is {nearest}" in str(refused.value)
    assert str(refused.value).startswith(f"--quant {named}: no such type here")


def test_other_options_name_themselves(source: SourceModel) -> None:
    assert Recipe.of(source, "q4_0", "FP16", None).kv == "f16"
    with pytest.raises(UsageError, match="--kv int8: no such type here; the nearest is q8_0"):
        Recipe.of(source, "q4_0", "int8", None)
    with pytest.raises(UsageError, match="--kv q4_0"):
        Recipe.of(source, "q4_0", "q4_0", None)
    with pytest.raises(UsageError, match=r"--quant qq8_0.*did you mean q8_0"):
        Recipe.of(source, "qq8_0", None, None)
    with pytest.raises(UsageError, match="--embedding keep"):
        Recipe.of(source, "q4_0", None, "keep")


@pytest.mark.parametrize("quant", QUANTS)
def test_every_name_gives_each_matrix_a_type_and_norms_none(
    quant: str, source: SourceModel
) -> None:
    recipe = Recipe.of(source, quant, None, None)
    matrices = {name for name in source.tensors if "norm" not in name}
    assert set(recipe.types) == matrices
    assert recipe.type_of("output_norm.weight") == "f32"
    assert recipe.embedding == recipe.types["token_embd.weight"]


def test_the_cache_is_as_fine_as_the_weights(source: SourceModel) -> None:
    caches = {q: Recipe.of(source, q, None, None).kv for q in ("f32", "bf16", "f16", "a4")}
    assert caches == {"f32": "f32", "bf16": "f32", "f16": "f16", "a4": "q8_0"}


def test_what_is_quantized_already_is_kept_and_the_rest_made(tmp_path: Path) -> None:
    config = TinyConfig()
    plain = open_source(write_gguf(tmp_path / "f.gguf", config, make_weights(1, config)))
    assert default_quant(plain) == "a4_M" and default_quant(plain, quick=True) == "q8_0"
    kept = open_source(
        write_gguf(tmp_path / "q.gguf", config, make_weights(1, config), {"*": "Q4_1"})
    )
    assert default_quant(kept) == "keep"
    recipe = Recipe.of(kept, "keep", None, None)
    assert (recipe.quant, recipe.kv) == ("keep", "q8_0")
    assert {recipe.types[name] for name in recipe.types if "ffn" in name} == {"q4_1"}


def test_kept_types_are_those_that_hold_the_values() -> None:
    assert kept_type("Q4_K") == "q4_K" and kept_type("TQ1_0") == "tq2_0"
    assert kept_type("F64") == "f32" and kept_type("BF16") == "bf16"
    assert kept_type("IQ2_XS") is None and kept_type("Q8_K") is None
