"""Mixtures against what llama-quant.cpp gives for the same names and widths."""

import pytest

from qedge.runtime.errors import UsageError
from qedge.toolkit.quant.mixtures import MIXTURES, Shape, types_of
from qedge.toolkit.quant.search import KINDS, stored_bytes

SMOLLM2 = Shape(layers=30, heads=9, kv_heads=3, tied=True)
ONE_B = Shape(layers=16, heads=32, kv_heads=8, tied=True)  # rows that 256 divides


def matrices(layers, dim, ffn, tied=True):
    """Columns of each matrix of a Llama graph, by name."""
    inner = {name: dim for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    inner |= {"ffn_gate": dim, "ffn_up": dim, "ffn_down": ffn}
    found = {"token_embd.weight": dim}
    for layer in range(layers):
        found |= {f"blk.{layer}.{name}.weight": width for name, width in inner.items()}
    return found if tied else {**found, "output.weight": dim}


def layers_with(types, sort, kind):
    return [i for i in range(len(types)) if types.get(f"blk.{i}.{sort}.weight") == kind]


@pytest.mark.parametrize(("mixture", "megabytes"), [("q4_K_M", 103.5), ("q5_K_M", 110.2)])
def test_smollm2_falls_back_to_llama_cpps_bytes(mixture, megabytes):
    rows = {"attn_q": 576, "attn_k": 192, "attn_v": 192, "attn_output": 576}
    rows |= {"ffn_gate": 1536, "ffn_up": 1536, "ffn_down": 576, "token_embd": 49152}
    columns = matrices(30, 576, 1536)
    total = 0
    for name, kind in types_of(mixture, columns, SMOLLM2).items():
        total += rows[name.split(".")[-2]] * stored_bytes(kind, columns[name])
    assert total / 1e6 == pytest.approx(megabytes, abs=0.05)


def test_q4_K_M_gives_more_bits_to_both_ends_and_every_third_layer():
    types = types_of("q4_K_M", matrices(16, 2048, 8192), ONE_B)
    more = [0, 1, 4, 7, 10, 13, 14, 15]
    assert layers_with(types, "attn_v", "q6_K") == more
    assert layers_with(types, "ffn_down", "q6_K") == more
    assert layers_with(types, "ffn_up", "q4_K") == list(range(16))
    assert types["token_embd.weight"] == "q6_K"


def test_q4_K_M_of_smollm2_is_q5_0_q8_0_and_real_k_types_where_256_divides():
    types = types_of("q4_K_M", matrices(30, 576, 1536), SMOLLM2)
    more = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]
    assert layers_with(types, "attn_v", "q8_0") == more
    assert layers_with(types, "ffn_down", "q6_K") == more
    assert layers_with(types, "attn_q", "q5_0") == list(range(30))
    assert types["token_embd.weight"] == "q8_0"


@pytest.mark.parametrize(("kv_heads", "kind"), [(8, "q4_K"), (16, "q3_K")])
def test_q2_K_spends_more_on_values_that_four_heads_share(kv_heads, kind):
    types = types_of("q2_K", matrices(16, 2048, 8192), Shape(16, 32, kv_heads, True))
    assert layers_with(types, "attn_v", kind) == list(range(16))
    assert layers_with(types, "ffn_down", "q3_K") == list(range(16))
    assert layers_with(types, "attn_output", "q3_K") == list(range(16))
    assert layers_with(types, "attn_k", "q2_K") == list(range(16))


def test_q3_K_M_and_q4_K_S_begin_finer():
    types = types_of("q3_K_M", matrices(32, 2048, 8192), Shape(32, 32, 8, True))
    assert layers_with(types, "attn_v", "q5_K") == [0, 1]
    assert layers_with(types, "ffn_down", "q5_K") == [0, 1]
    assert layers_with(types, "attn_output", "q4_K") == list(range(32))
    types = types_of("q4_K_S", matrices(16, 2048, 8192), ONE_B)
    assert layers_with(types, "attn_v", "q5_K") == [0, 1, 2, 3]
    assert layers_with(types, "ffn_down", "q5_K") == [0, 1]


def test_an_embedding_of_its_own_has_the_default_type():
    untied = Shape(16, 32, 8, tied=False)
    types = types_of("q5_K_M", matrices(16, 2048, 8192, tied=False), untied)
    assert (types["token_embd.weight"], types["output.weight"]) == ("q5_K", "q6_K")


def test_layers_count_by_their_number_whatever_the_order_of_the_file():
    columns = matrices(16, 2048, 8192)
    turned = dict(reversed(columns.items()))
    assert types_of("q4_K_M", turned, ONE_B) == types_of("q4_K_M", columns, ONE_B)


def test_a_row_that_32_does_not_divide_stays_f16():
    types = types_of("q4_K_M", matrices(2, 100, 256), Shape(2, 4, 4, True))
    assert types["blk.0.attn_q.weight"] == "f16"
    assert types["blk.0.ffn_down.weight"] == "q4_K"


def test_a4_M_needs_no_fall_back():
    types = types_of("a4_M", matrices(2, 100, 256), Shape(2, 4, 4, True))
    assert types["blk.0.attn_v.weight"] == "a6"
    assert types["blk.1.ffn_down.weight"] == "a5"
    assert types["blk.1.attn_output.weight"] == "a4"
    types = types_of("a4_M", matrices(2, 576, 1536, tied=False), Shape(2, 9, 3, False))
    assert types["token_embd.weight"] == types["output.weight"] == "q8_0"


def test_every_mixture_gives_types_that_can_be_searched():
    for mixture in MIXTURES:
        assert set(types_of(mixture, matrices(30, 576, 1536), SMOLLM2).values()) <= set(KINDS)


def test_an_unknown_mixture_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="q5_K_L; known are q2_K, q3_K_S"):
        types_of("q5_K_L", {}, ONE_B)
