"""Error compensation: less error of the output, the same bytes however rows are spread."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from support.weights import normal

from qedge.runtime.errors import ImageError, UsageError
from qedge.toolkit.quant import spread as spreading
from qedge.toolkit.quant.search import KINDS, can_spread, dequantize_rows, quantize_rows
from qedge.toolkit.quant.spread import Correlations, Products, Spread, numbers_of, pieces_of

COMPENSATED = [kind for kind in KINDS if can_spread(kind)]


@cache
def inputs_of(columns, tokens=1024):
    """(tokens, columns), columns going together: what most layers of a model see."""
    hidden = normal(tokens, columns // 4, 31, 1.0)
    mixed = hidden @ normal(columns // 4, columns, 32, 1.0) + normal(tokens, columns, 33, 1.0)
    return (mixed * (1 + normal(1, columns, 34, 1.0) ** 2)).astype(np.float32)


@cache
def seen(columns, widest=256):
    """(mean squares, correlations, second moment) of these inputs."""
    x = inputs_of(columns)
    products = Products(columns, widest)
    for at in range(0, len(x), 64):
        products.add(x[at : at + 64])
    moment = x.astype(np.float64).T @ x / len(x)
    return np.diagonal(moment).astype(np.float32), products.correlations(), moment


def output_error(values, stored, kind, moment):
    error = dequantize_rows(stored, kind, values.shape[1]) - values.astype(np.float64)
    return float(((error @ moment) * error).sum())


@pytest.mark.parametrize("kind", COMPENSATED)
def test_the_output_of_a_matrix_has_less_error(kind):
    values = normal(24, 512, 35)
    importance, correlations, moment = seen(512, 512)
    plain = quantize_rows(values, kind, importance)
    spread = quantize_rows(values, kind, importance, Spread.of(importance, correlations))
    assert spread.shape == plain.shape
    less = output_error(values, spread, kind, moment)
    assert less < 0.9 * output_error(values, plain, kind, moment)


def test_correlations_are_those_of_the_inputs_in_pieces():
    _, correlations, moment = seen(288, 256)
    assert pieces_of(288, 256) == [(0, 256), (256, 32)]
    roots = np.sqrt(np.diagonal(moment))
    wanted = moment / roots / roots[:, None]
    bands = [(0, at) for at in range(0, 256, 32)] + [(256, 256)]
    done = 0
    for first, at in bands:
        band = wanted[at : at + 32, first : at + 32]
        part = correlations.parts[done : done + band.size].reshape(band.shape)
        assert np.abs(part / 127 - band).max() < 4.1e-3
        done += band.size
    assert done == len(correlations.parts) == numbers_of(288, 256)


def test_factors_are_those_of_the_second_moment():
    importance, correlations, moment = seen(64, 256)
    spread = Spread.of(importance, correlations)
    below = np.zeros((64, 64))
    below[:32, :32] = spread.factors[:1024].reshape(32, 32)
    below[32:] = spread.factors[1024:].reshape(32, 64)
    below += np.eye(64)
    believed = spreading.KEPT * moment
    believed += (1 - spreading.KEPT) * np.diag(np.diagonal(moment))
    again = below.T @ np.diag(spread.weights.astype(np.float64)) @ below
    assert np.abs(again - believed).max() < 4.1e-3 * np.abs(believed).max()


@pytest.mark.parametrize("kind", COMPENSATED)
def test_columns_that_do_not_go_together_give_the_bytes_without(kind):
    values, importance = normal(20, 512, 36), np.ones(512, np.float32)
    alone = Correlations(512, np.zeros(numbers_of(512, 512), np.int8))
    spread = quantize_rows(values, kind, importance, Spread.of(importance, alone))
    assert np.array_equal(spread, quantize_rows(values, kind, importance))


@pytest.mark.parametrize("kind", COMPENSATED)
def test_bytes_do_not_depend_on_how_rows_are_spread_over_threads(kind):
    values = normal(37, 512, 38)
    importance, correlations, _ = seen(512)
    spread = Spread.of(importance, correlations)
    together = quantize_rows(values, kind, importance, spread)
    parts = [values[:1], values[1:18], values[18:]]
    with ThreadPoolExecutor(2) as pool:
        apart = pool.map(lambda rows: quantize_rows(rows, kind, importance, spread), parts)
    assert np.array_equal(together, np.concatenate(list(apart)))


@pytest.mark.parametrize("kind", COMPENSATED)
def test_rows_of_zeros_and_columns_without_inputs_are_taken(kind):
    values = normal(3, 256, 39)
    values[1] = 0
    importance, correlations, _ = seen(256)
    importance = importance.copy()
    importance[::3] = 0
    spread = Spread.of(importance, correlations)
    read = dequantize_rows(quantize_rows(values, kind, importance, spread), kind, 256)
    assert np.isfinite(read).all()
    assert not read[1].any()


@pytest.mark.parametrize("kind", ["a4", "q4_0", "q4_K"])
def test_a_last_block_may_be_partly_filled(kind):
    values = normal(5, 300, 40)
    x = inputs_of(320)[:, :300]
    products = Products(300, 512)
    products.add(x)
    importance = (x**2).mean(0)
    spread = Spread.of(importance, products.correlations())
    read = dequantize_rows(quantize_rows(values, kind, importance, spread), kind, 300)
    assert np.abs(read - values).max() < 0.1


def test_a_weight_that_is_not_finite_is_refused_by_its_row():
    values = normal(40, 256, 41)
    values[33, 7] = np.nan
    importance, correlations, _ = seen(256)
    with pytest.raises(ImageError, match="row 33 has a weight that is not finite"):
        quantize_rows(values, "a4", importance, Spread.of(importance, correlations))


def test_correlations_of_other_columns_are_refused():
    importance, correlations, _ = seen(256)
    with pytest.raises(UsageError, match="correlations do not belong to 128 columns"):
        Spread.of(importance[:128], correlations)


def test_inputs_that_run_over_go_with_nothing():
    products = Products(64, 256)
    x = np.ones((4, 64), np.float32)
    x[:, 5], x[:, 9] = np.inf, 3e38
    products.add(x)
    parts = products.correlations().parts
    assert parts[0] == 127
    assert not parts[5 * 32 : 6 * 32].any() and not parts[9 * 32 : 10 * 32].any()


# What these machines' bytes are: a difference is a compiler's or a host's, and breaks images.
def test_bytes_are_the_same_on_every_host():
    values, found = normal(17, 512, 42), hashlib.sha256()
    x, products = normal(64, 512, 43, 1.0), Products(512, 256)
    products.add(x)
    importance = normal(1, 512, 44, 1.0)[0] ** 2
    spread = Spread.of(importance, products.correlations())
    for kind in COMPENSATED:
        found.update(quantize_rows(values, kind, importance, spread).tobytes())
    assert found.hexdigest()[:16] == GOLDEN


GOLDEN = "06c1476eadf310db"
