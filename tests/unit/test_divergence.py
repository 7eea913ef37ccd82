"""How far two models' predictions lie apart: the arithmetic against numpy's long doubles, the
statistics, and `qedge eval --against`."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime import BudgetError, ImageError, Model
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build
from qedge.toolkit.quality import _rows, scoring
from qedge.toolkit.quality.evaluate import against, evaluate
from qedge.toolkit.quality.scoring import KL, NLL, NLL_BASE, SAME_TOP, Scorer, chunks_of
from qedge.toolkit.quality.statistics import mean_and_error, summary, wilson

Call = Callable[..., "subprocess.CompletedProcess[str]"]
TEXT = b"the rain in the street is a thing that one can hear at night " * 40
CHUNK = 32


def image(folder: Path, quant: str, seed: int = 1, **shape: int) -> Path:
    config = TinyConfig(**shape)
    model = folder / f"{seed}-{'-'.join(map(str, shape.values()))}.gguf"
    if not model.exists():
        write_gguf(model, config, make_weights(seed, config))
    return build(model, load("host"), model.with_suffix(f".{quant}.qimg"), quant=quant).image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("divergence")


@pytest.fixture(scope="module")
def exact(folder: Path) -> Path:
    return image(folder, "f32")


@pytest.fixture(scope="module")
def rough(folder: Path) -> Path:
    return image(folder, "q4_0")


# ---- the arithmetic ----


def in_long_doubles(base: np.ndarray, other: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(rows, 4) by definition."""
    logs = []
    for rows in (base, other):
        x = rows.astype(np.longdouble)
        x = x - x.max(axis=1, keepdims=True)
        logs.append(x - np.log(np.exp(x).sum(axis=1, keepdims=True)))
    p, q = logs
    at = np.arange(len(p)), target
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    same = base.argmax(axis=1) == other.argmax(axis=1)
    return np.stack([-p[at], -q[at], kl, same], axis=1).astype(float)


def compared(base: np.ndarray | None, other: np.ndarray, target: np.ndarray) -> np.ndarray:
    out = np.zeros((len(other), _rows.COLUMNS))
    _rows.compare(base, other, other.shape[1], target, 0, len(other), out)
    return out


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 300, 4099])
def test_rows_are_compared_as_by_definition(size: int) -> None:
    random = np.random.default_rng(size)
    base = random.normal(0, 5, (9, size)).astype(np.float32)
    other = (base + random.normal(0, 0.3, base.shape)).astype(np.float32)
    target = random.integers(0, size, 9).astype(np.int32)
    wanted = in_long_doubles(base, other, target)
    assert compared(base, other, target) == pytest.approx(wanted, abs=1e-12, rel=1e-12)
    alone = compared(None, other, target)
    assert (alone[:, NLL] == compared(base, other, target)[:, NLL]).all()
    assert not alone[:, [NLL_BASE, KL, SAME_TOP]].any()


def test_logits_far_apart_and_large_are_compared_as_by_definition() -> None:
    base = np.array([[3e4, 3e4 - 5, -3e4, 0], [-1e5, -1e5, -1e5, -1e5]], np.float32)
    other = np.array([[3e4 - 9, 3e4, -2e4, 1], [7, 7, 7, 7]], np.float32)
    target = np.array([1, 2], np.int32)
    wanted = in_long_doubles(base, other, target)
    assert compared(base, other, target) == pytest.approx(wanted, abs=1e-11)


def test_equal_rows_diverge_by_nothing() -> None:
    rows = np.random.default_rng(1).normal(0, 9, (5, 77)).astype(np.float32)
    found = compared(rows, rows.copy(), np.zeros(5, np.int32))
    assert (found[:, KL] < 1e-13).all() and (found[:, SAME_TOP] == 1).all()


def test_first_of_equal_largest_logits_is_the_top() -> None:
    base = np.array([[0, 5, 5, 0]], np.float32)
    for other, same in (([0, 5, 5, 1], 1), ([0, 4, 5, 1], 0), ([5, 5, 5, 5], 0)):
        rows = np.array([other], np.float32)
        assert compared(base, rows, np.zeros(1, np.int32))[0, SAME_TOP] == same


def test_rows_that_do_not_fit_are_refused() -> None:
    rows, target = np.zeros((2, 32), np.float32), np.zeros(2, np.int32)
    out = np.zeros((2, _rows.COLUMNS))
    for words in (
        (rows[:1], rows, 32, target, 0, 2, out),
        (None, rows, 33, target, 0, 2, out),
        (None, rows, 32, target, 0, 3, out),
        (None, rows, 32, target[:1], 0, 2, out),
        (None, rows, 32, target, 0, 2, out[:1]),
        (None, rows, 32, target + 32, 0, 2, out),
    ):
        with pytest.raises(ValueError):
            _rows.compare(*words)


# ---- statistics ----


def test_errors_are_llama_cpps() -> None:
    """sd / sqrt(n - 1), binomial for the top token, paired for the ratio."""
    columns = np.array([[1.0, 1.5, 0.2, 1], [2.0, 2.1, 0.1, 1], [3.0, 3.9, 0.6, 0]])
    found = summary(columns)
    assert found.kl_mean == pytest.approx(0.3)
    assert found.kl_mean_error == pytest.approx(np.std([0.2, 0.1, 0.6]) / math.sqrt(2))
    assert found.kl_median == pytest.approx(0.2)
    assert found.top1 == pytest.approx(2 / 3)
    assert found.top1_error == pytest.approx(math.sqrt(2 / 3 / 3 / 2))
    assert found.ln_ratio == pytest.approx(0.5)
    assert found.ln_ratio_error == pytest.approx(np.std([0.5, 0.1, 0.9]) / math.sqrt(2))
    assert found.perplexity == pytest.approx(math.exp(2.5))
    assert found.perplexity_base == pytest.approx(math.exp(2.0))


def test_one_position_has_no_error() -> None:
    assert mean_and_error(np.array([2.0])) == (2.0, math.inf)


def test_wilsons_interval_keeps_between_0_and_1() -> None:
    assert wilson(0, 5) == (0.0, pytest.approx(0.4345, abs=1e-4))
    assert wilson(5, 5) == (pytest.approx(0.5655, abs=1e-4), 1.0)
    low, high = wilson(50, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))


# ---- models ----


def test_columns_are_those_of_the_models_logits(exact: Path, rough: Path) -> None:
    with Model.open(exact, context=64) as base, Model.open(rough, context=64) as other:
        chunk = chunks_of(base, TEXT, CHUNK)[0]
        logits = []
        for model in (base, other):
            rows = np.empty((CHUNK, 320), np.float32)
            model.reset()
            model.engine.eval(chunk.tolist(), rows)
            logits.append(rows[CHUNK // 2 : -1, :300])
        with Scorer([base, other]) as scorer:
            found = scorer.chunk(chunk)[0]
    wanted = in_long_doubles(*logits, chunk[CHUNK // 2 + 1 :])
    assert found == pytest.approx(wanted, abs=1e-12)


def test_rows_held_at_a_time_threads_and_batch_change_no_bit(
    exact: Path, rough: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for held, threads, batch in ((32 << 20, 1, 32), (1, 2, 5), (1300 * 3, 2, 1)):
        monkeypatch.setattr(scoring, "ROWS_BYTES", held)
        options = {"context": 64, "threads": threads, "batch": batch}
        with Model.open(exact, **options) as base, Model.open(rough, **options) as other:
            found.append(against(other, base, TEXT, CHUNK, 2).divergence)
    assert found[0] == found[1] == found[2] and found[0].kl_mean > 0


def test_an_image_against_itself_diverges_by_nothing(exact: Path) -> None:
    with Model.open(exact) as model, Model.open(exact) as base:
        found = against(model, base, TEXT, CHUNK).divergence
    assert found.kl_mean < 1e-13 and found.top1 == 1 and found.ln_ratio == 0
    with Model.open(exact) as model:
        assert evaluate(model, TEXT, CHUNK).perplexity == found.perplexity


def test_other_models_are_refused_by_name(exact: Path, folder: Path) -> None:
    larger, deeper = image(folder, "f32", vocab_size=320), image(folder, "f32", layers=3)
    for other, why in (
        (larger, "vocabulary of 320 tokens"),
        (deeper, "another model .layers 3"),
    ):
        with (
            Model.open(exact) as model,
            Model.open(other) as base,
            pytest.raises(ImageError, match=why),
        ):
            against(model, base, TEXT, CHUNK)


def test_a_base_with_too_short_a_context_is_refused(exact: Path) -> None:
    with (
        Model.open(exact) as model,
        Model.open(exact, context=16) as base,
        pytest.raises(BudgetError, match="--context"),
    ):
        against(model, base, TEXT, CHUNK)


# ---- the verb ----


def test_eval_against_has_the_keys_and_says_its_memory(
    qedge: Call, exact: Path, rough: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_bytes(TEXT)
    words = ["eval", rough, "--against", exact, "--context", CHUNK]
    done = qedge(*words, "--text", text, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    keys = {"perplexity", "kl_mean", "kl_mean_error", "kl_median", "kl_999", "top1"}
    assert keys | {"top1_error", "ln_ratio", "ln_ratio_error"} <= set(found)
    assert "memory: arenas of" in done.stderr
    piped = qedge(*words, "--text", "-", "--json", input=TEXT.decode())
    assert json.loads(piped.stdout)["kl_mean"] == found["kl_mean"]
    shown = qedge(*words, text)
    assert "same top token" in shown.stdout and "KL mean" in shown.stdout


def test_eval_takes_one_thing_to_evaluate(qedge: Call, exact: Path) -> None:
    for words in ([], ["a", "--text", "b"], ["a", "--hellaswag", "b"], ["a", "--tasks", "3"]):
        assert qedge("eval", exact, *words).returncode == 2


def test_eval_against_a_hostile_text_is_an_error_of_the_text(
    qedge: Call, exact: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    for data in (b"", b"\xff\xfe" * 400, b"short"):
        text.write_bytes(data)
        done = qedge("eval", exact, text, "--against", exact, "--context", CHUNK, "--json")
        assert done.returncode == 6 and json.loads(done.stdout)["error"] == "ImageError"
