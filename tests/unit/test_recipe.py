"""Types by the names that people have: taken when they are the same, answered when not."""

from __future__ import annotations

import pytest

from qedge.runtime import UsageError
from qedge.toolkit.quant.recipe import Recipe


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
    ],
)
def test_a_type_by_any_of_its_names_is_that_type(named: str, found: str) -> None:
    recipe = Recipe.of(named, None, named)
    assert (recipe.quant, recipe.embedding) == (found, found)


@pytest.mark.parametrize(
    ("named", "nearest"),
    [
        ("q4_K_M", "q4_0"),
        ("Q4_K_S", "q4_0"),
        ("q4_1", "q4_0"),
        ("IQ4_XS", "q4_0"),
        ("4bit", "q4_0"),
        ("4-bit", "q4_0"),
        ("int4", "q4_0"),
        ("NF4", "q4_0"),
        ("MXFP4", "q4_0"),
        ("fp4", "q4_0"),
        ("w4a16", "q4_0"),
        ("awq", "q4_0"),
        ("q3_K", "q4_0"),
        ("Q2_K", "q4_0"),
        ("IQ1_S", "q4_0"),
        ("TQ2_0", "q4_0"),
        ("q5_K_M", "q4_0 (and the next finer one q8_0)"),
        ("q6_K", "q8_0"),
        ("Q8", "q8_0"),
        ("8bit", "q8_0"),
        ("int8", "q8_0"),
        ("w8a8", "q8_0"),
        ("fp8", "q8_0"),
        ("bf16", "f16"),
        ("16bit", "f16"),
        ("32-bit", "f32"),
        ("f64", "f32"),
    ],
)
def test_a_type_that_is_not_made_is_answered_with_the_nearest(named: str, nearest: str) -> None:
    with pytest.raises(UsageError) as told:
        Recipe.of(named, None, None)
    text = str(told.value)
    assert text.startswith(f"--quant {named}: no such type here; the nearest is {nearest}")
    assert text.endswith("known are f32, f16, q4_0, q8_0")


def test_a_cache_of_keys_and_values_has_types_of_its_own() -> None:
    assert Recipe.of("q4_0", "FP16", None).kv == "f16"
    with pytest.raises(UsageError, match=r"--kv int8: .*the nearest is q8_0"):
        Recipe.of("q4_0", "int8", None)
    with pytest.raises(UsageError, match=r"--kv q4_0: no such type here; did you mean q8_0"):
        Recipe.of("q4_0", "q4_0", None)
    with pytest.raises(UsageError, match=r"--quant qq8_0: .*did you mean q8_0"):
        Recipe.of("qq8_0", None, None)
