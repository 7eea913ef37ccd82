"""Stored rows of the searched quantizers, against readers that are not theirs."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import pytest
from support.weights import normal

from qedge.runtime.errors import ImageError, UsageError
from qedge.toolkit.quant.search import (
    KINDS,
    block_columns,
    dequantize_rows,
    quantize_rows,
    stored_bytes,
)

OWN = {"a2": 2, "a3": 3, "a4": 4, "a5": 5, "a6": 6}
GGML = [kind for kind in KINDS if kind not in OWN]


def own_values(stored, bits, columns):
    """Rows of a2 to a6 by the words of the format: every column's bits picked by itself."""
    rows = []
    for row in stored:
        scale, values = row[:4].view("<f4")[0], []
        for block in row[4:].reshape(-1, 2 + 4 * bits):
            s, z, planes = int(block[0]), int(block[1]), block[2:]
            for j in range(32):
                q, at, shift = 0, 0, 0
                if bits >= 4:
                    q, at, shift = int(planes[j % 16]) >> 4 * (j // 16) & 15, 16, 4
                if bits - shift >= 2:
                    crumbs = int(planes[at + 4 * (j // 16) + j % 4])
                    q |= (crumbs >> 2 * (j // 4 % 4) & 3) << shift
                    at, shift = at + 8, shift + 2
                if bits > shift:
                    q |= (int(planes[at + j % 4]) >> j // 4 & 1) << shift
                value = (q << (7 - bits)) - z
                assert -128 <= value <= 127
                values.append(scale * np.float32(s * value))
        rows.append(values[:columns])
    return np.array(rows, np.float32)


@pytest.mark.parametrize("kind", GGML)
def test_gguf_reads_the_same_values_from_a_row_of_ggml(kind):
    stored = quantize_rows(normal(8, 512, 3), kind, None)
    read = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[kind.upper()])
    assert np.array_equal(dequantize_rows(stored, kind, 512), read)


@pytest.mark.filterwarnings("ignore:invalid value")  # f16 that is not finite, in gguf
@pytest.mark.parametrize("kind", GGML)
def test_any_bytes_read_as_gguf_reads_them(kind):
    stored = np.random.default_rng(5).integers(0, 256, (16, stored_bytes(kind, 512)), np.uint8)
    read = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[kind.upper()])
    finite = np.isfinite(read)  # f16 scales that are not finite are nobody's
    assert np.array_equal(dequantize_rows(stored, kind, 512)[finite], read[finite])


@pytest.mark.parametrize(("kind", "bits"), OWN.items())
def test_a_row_of_ours_is_what_its_bits_say(kind, bits):
    values = normal(3, 80, 4)  # the last block is half full
    stored = quantize_rows(values, kind, None)
    assert stored.shape == (3, 4 + 3 * (2 + 4 * bits))
    read = own_values(stored, bits, 80)
    assert np.array_equal(dequantize_rows(stored, kind, 80), read)
    assert np.abs(read - values).max() < 0.2 / 2**bits


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_each_other_or_on_threads(kind):
    values, importance = normal(6, 256, 6), normal(1, 256, 7)[0] ** 2
    together = quantize_rows(values, kind, importance)
    with ThreadPoolExecutor(3) as pool:
        alone = pool.map(lambda row: quantize_rows(row[None], kind, importance), values)
    assert np.array_equal(together, np.concatenate(list(alone)))


@pytest.mark.parametrize("kind", KINDS)
def test_values_times_a_power_of_two_have_the_same_levels(kind):
    values = normal(4, 256, 8, scale=1.0)
    twice = dequantize_rows(quantize_rows(values * 2, kind, None), kind, 256)
    assert np.array_equal(
        twice, 2 * dequantize_rows(quantize_rows(values, kind, None), kind, 256)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_one_value_of_one_sign_and_of_zeros_are_kept(kind):
    rows = np.zeros((5, 256), np.float32)
    rows[0], rows[1] = 0.25, -0.25
    rows[2] = np.abs(normal(1, 256, 9)[0])
    rows[3] = -rows[2]
    read = dequantize_rows(quantize_rows(rows, kind, None), kind, 256)
    assert np.isfinite(read).all()
    assert not read[4].any()
    assert np.abs(read[:2] - rows[:2]).max() < 0.002
    assert np.abs(read - rows).max() < 0.04


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_every_size_stay_finite(kind):
    sizes = np.array([1e-44, 1e-39, 1e-30, 1e-7, 1.0, 1e4], np.float32)[:, None]
    rows = normal(len(sizes), 256, 10, scale=1.0) * sizes
    read = dequantize_rows(
        quantize_rows(rows, kind, np.full(256, 1e-20, np.float32)), kind, 256
    )
    assert np.isfinite(read).all()
    error = ((read - rows) ** 2).sum(1)[-2:] / (rows**2).sum(1)[-2:]
    assert (error < 0.1).all()


def test_a_weight_that_is_not_finite_is_refused_by_its_row():
    values = normal(4, 64, 11)
    values[2, 63] = np.inf
    with pytest.raises(ImageError, match="row 2 has a weight that is not finite"):
        quantize_rows(values, "a4", None)


def test_importance_is_one_finite_number_a_column():
    values = normal(2, 64, 12)
    with pytest.raises(UsageError, match=r"shape \(32,\), the rows have 64"):
        quantize_rows(values, "a4", np.ones(32, np.float32))
    with pytest.raises(UsageError, match="negative or not finite"):
        quantize_rows(values, "a4", np.full(64, np.nan, np.float32))


def test_an_unknown_kind_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="unknown kind q9_9; known are q4_0"):
        stored_bytes("q9_9", 32)
    with pytest.raises(UsageError, match="20 bytes in a row of 32 columns"):
        dequantize_rows(np.zeros((1, 18), np.uint8), "q4_1", 32)


def test_columns_without_importance_do_not_matter():
    values = normal(4, 256, 13)
    importance = np.ones(256, np.float32)
    importance[::8] = 0
    changed = values.copy()
    changed[:, ::8] *= 0.5
    for kind in KINDS:
        errors = []
        for rows in (values, changed):
            read = dequantize_rows(quantize_rows(rows, kind, importance), kind, 256)
            errors.append((((read - rows) ** 2) * importance).sum())
        assert errors[1] == pytest.approx(errors[0], rel=0.1), kind


# What these machines' bytes are: a difference is a compiler's or a host's, and breaks images.
def test_bytes_are_the_same_on_every_host():
    values, importance = normal(4, 768, 1), normal(1, 768, 2, 6.0)[0] ** 2
    found = hashlib.sha256()
    for kind in KINDS:
        assert block_columns(kind) in (32, 256)
        for weights in (None, importance):
            found.update(quantize_rows(values, kind, weights).tobytes())
    assert found.hexdigest()[:16] == GOLDEN


GOLDEN = "d7e1c4e9ef90c4cb"
