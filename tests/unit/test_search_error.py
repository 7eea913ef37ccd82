"""Weighted errors of the searched quantizers: below llama.cpp's, near the least there is."""

import numpy as np
import pytest
from support.weights import normal

from qedge.toolkit.quant.search import dequantize_rows, quantize_rows

# Of llama.cpp's quantizers (0c1e57098, October 2026) on the rows below: squared error in parts
# of squared values, without importance and with it.
LLAMA_CPP = {
    "q4_0": (0.00663416, 0.00515892),
    "q4_1": (0.00566763, 0.00346667),
    "q5_0": (0.00161977, 0.00120687),
    "q5_1": (0.00133850, 0.000803362),
    "q8_0": (2.56371e-05, 2.54818e-05),
    "iq4_nl": (0.00543843, 0.00442584),
    "q2_K": (0.0833999, 0.0463633),
    "q3_K": (0.0212223, 0.0151296),
    "q4_K": (0.00465464, 0.00358325),
    "q5_K": (0.00120769, 0.000931915),
    "q6_K": (0.000287992, 0.000215369),
}


def rows_and_importance():
    importance = (normal(1, 768, 2, 1.0).astype(np.float64)[0] ** 2 * 40).astype(np.float32)
    return normal(16, 768, 1), importance


def relative_error(values, kind, importance):
    read = dequantize_rows(quantize_rows(values, kind, importance), kind, values.shape[1])
    weights = 1 if importance is None else importance.astype(np.float64)
    wanted = values.astype(np.float64)
    return (((read - wanted) ** 2) * weights).sum() / (wanted**2 * weights).sum()


@pytest.mark.parametrize(("kind", "theirs"), LLAMA_CPP.items())
def test_the_error_is_below_llama_cpps_with_importance_and_without(kind, theirs):
    values, importance = rows_and_importance()
    assert relative_error(values, kind, None) < 0.96 * theirs[0]
    assert relative_error(values, kind, importance) < 0.96 * theirs[1]


@pytest.mark.parametrize(("ours", "theirs"), [("a4", "q4_K"), ("a5", "q5_K"), ("a4", "q4_0")])
def test_our_rows_are_as_good_as_ggmls_of_the_same_bits(ours, theirs):
    values, importance = rows_and_importance()
    error = relative_error(values, ours, importance)
    assert error < 1.02 * relative_error(values, theirs, importance)


@pytest.mark.parametrize(("kind", "bits"), [("a2", 2), ("a3", 3), ("a4", 4), ("a5", 5)])
def test_blocks_are_near_the_best_of_every_scale_and_zero(kind, bits):
    values, importance = normal(3, 32, 20), normal(1, 32, 21)[0] ** 2
    stored = quantize_rows(values, kind, importance)
    s, z = np.meshgrid(np.arange(128, 256), np.arange(128), indexing="ij")
    for row, read, block in zip(values, dequantize_rows(stored, kind, 32), stored):
        d = block[:4].view("<f4")[0]
        level = (row / d / s[..., None] + z[..., None]) / 2 ** (7 - bits)
        level = np.clip(np.rint(level), 0, 2**bits - 1)
        every = d * s[..., None] * (level * 2 ** (7 - bits) - z[..., None])
        least = (((every - row) ** 2) * importance).sum(-1).min()
        assert (((read - row) ** 2) * importance).sum() < 1.03 * least


def test_importance_moves_error_to_where_it_matters_less():
    values = normal(16, 256, 22)
    importance = np.ones(256, np.float32)
    importance[::4] = 100
    for kind in ("q4_0", "q4_K", "q6_K", "a2", "a3", "a4"):
        plain = dequantize_rows(quantize_rows(values, kind, None), kind, 256)
        moved = dequantize_rows(quantize_rows(values, kind, importance), kind, 256)
        error = ((moved - values)[:, ::4] ** 2).sum() / ((plain - values)[:, ::4] ** 2).sum()
        assert error < 0.75, kind
