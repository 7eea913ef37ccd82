"""Calibrating: what it sees of a model's matrices, the same whatever runs at once."""

from pathlib import Path

import numpy as np
import pytest

from qedge.runtime.model import Model
from qedge.toolkit.board import load
from qedge.toolkit.make import calibrate
from qedge.toolkit.make.build import build
from qedge.toolkit.make.calibrate import calibrated
from qedge.toolkit.quant.spread import numbers_of

TEXT = b"The quick brown fox jumps over the lazy dog. " * 6


def seen(image: Path, name: str):
    return calibrated(name, lambda path: path.write_bytes(image.read_bytes()), TEXT)


@pytest.fixture
def plain(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "cache"))
    build(tiny_gguf, load("x86-64"), tmp_path / "plain.qimg", quant="q8_0", context=128)
    return tmp_path / "plain.qimg"


def test_every_matrix_has_importance_and_correlations_of_its_input(plain: Path) -> None:
    found = seen(plain, "a")
    for name, importance in found.importance.items():
        means, together = found.of(name)
        assert means is importance
        if name.startswith("blk."):
            assert together is not None
            assert len(together.parts) == numbers_of(len(importance), together.widest)
            assert together.parts[0] == 127  # a column with itself
        else:
            assert together is None
    q, v = (found.of(f"blk.0.attn_{role}.weight")[1] for role in "qv")
    assert q is v and q is not found.of("blk.0.attn_output.weight")[1]


def test_correlations_do_not_depend_on_how_many_are_added_at_once(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = seen(plain, "b")
    monkeypatch.setattr(calibrate, "_RAM_BYTES", 0)
    monkeypatch.setattr(calibrate, "_LEAST_SUMS", 1)
    monkeypatch.setattr(calibrate, "cpus", lambda: 1)
    apart = seen(plain, "c")
    assert list(apart.correlations) == list(together.correlations)
    for name, found in apart.correlations.items():
        assert np.array_equal(found.parts, together.correlations[name].parts)
    for name, means in apart.importance.items():
        assert np.array_equal(means, together.importance[name])


def test_inputs_are_kept_as_matrices_see_them(plain: Path) -> None:
    with Model.open(plain) as model:
        session = model.session().engine
        names = calibrate._names(model)
        inputs = [names[f"blk.0.{role}.weight"] for role in ("attn_q", "ffn_down")]
        tensors = [number for number, _ in inputs]
        tokens = model.tokenize(TEXT[:20])
        session.observe()
        session.eval(tokens)
        squares = [np.frombuffer(session.observed(n)) for n in tensors]
        session.rewind(0)
        session.keep_inputs(tensors, len(tokens))
        session.eval(tokens)
        for (number, wide), wanted in zip(inputs, squares):
            rows = np.frombuffer(session.inputs_of(number), np.float32).reshape(-1, wide)
            assert len(rows) == len(tokens)
            assert np.allclose((rows.astype(np.float64) ** 2).sum(0), wanted, rtol=1e-12)
            assert session.inputs_of(number) == b""
