"""--quant auto: budgets that are kept, choices that are better than uniform ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.errors import BudgetError, UsageError
from qedge.runtime.image import open_image, provenance_of
from qedge.toolkit.allocate import sensitivity as sensitivities
from qedge.toolkit.allocate.allocation import Allocated, Budget, allocate
from qedge.toolkit.allocate.sensitivity import KINDS, sensitivity
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build
from qedge.toolkit.source.opening import open_source

CONFIG = TinyConfig(dim=128, heads=4, kv_heads=2, ffn=160, layers=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer's values count for much more than the others'."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    weights = make_weights(9, CONFIG)
    weights["blk.1.attn_output.weight"] = weights["blk.1.attn_output.weight"] * 8
    write_gguf(path, CONFIG, weights)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("QEDGE_CACHE", str(cache))
    monkeypatch.setattr(sensitivities, "LENGTH", 64)


def allocated(model: Path, **budget: float) -> Allocated:
    return allocate(model, load("x86-64"), Budget(**budget), context=64)


def test_losses_fall_with_bits_and_are_kept(model: Path, monkeypatch: pytest.MonkeyPatch):
    source = open_source(model)
    found = sensitivity(model, source)
    assert len(found.ratios) == 7 * 3 + 1
    for of in found.losses.values():
        assert list(of) == list(KINDS)
        assert of["a2"] > of["a4"] > of["a6"] > 0
    assert all(0.05 < ratio < 50 for ratio in found.ratios.values())

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was made again")

    monkeypatch.setattr(sensitivities, "fisher", refuse)
    monkeypatch.setattr(sensitivities, "restored", refuse)
    assert sensitivity(model, source) == found


def test_an_interruption_costs_what_was_being_made(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, made, whole = open_source(model), [], sensitivities.restored
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path))

    def restored(tensor, kind, *given):
        made.append((tensor.name, kind))
        if len(made) == 20:
            raise KeyboardInterrupt
        return whole(tensor, kind, *given)

    monkeypatch.setattr(sensitivities, "restored", restored)
    with pytest.raises(KeyboardInterrupt):
        sensitivity(model, source)
    again = sensitivity(model, source)
    assert len(made) == 22 * len(KINDS) + 22 + 2  # of the fourth tensor two were made twice
    monkeypatch.undo()
    assert again.losses.keys() == sensitivity(model, source).losses.keys()


@pytest.mark.parametrize("size", [300_000, 350_000, 420_000])
def test_a_budget_of_flash_is_kept_and_used(model: Path, tmp_path: Path, size: int):
    found = allocated(model, flash_bytes=size)
    built = build(model, load("x86-64"), tmp_path / "i.qimg", recipe=found.recipe, context=64)
    assert built.bytes <= found.plan.image_bytes <= size
    assert found.plan.image_bytes > 0.995 * size  # what padding may take, with it
    told = provenance_of(open_image(built.image))["recipe"]
    assert (told["quant"], float(told["estimated_kl"])) == (
        "auto",
        pytest.approx(found.loss, rel=1e-3),
    )
    assert 0 < found.bound <= found.loss


def test_it_is_never_worse_than_one_type(model: Path):
    found = sensitivity(model, open_source(model))
    for kind in KINDS[1:]:
        uniform = sum(of[kind] for of in found.losses.values())
        best = allocated(model, kl=uniform)
        assert best.loss <= uniform
        again = allocated(model, flash_bytes=best.plan.image_bytes)
        assert again.loss <= best.loss * (1 + 1e-9)


def test_ram_and_flash_are_counted_on_the_board(model: Path):
    ample = allocated(model, flash_bytes=1 << 20)
    resident = ample.plan.resident_bytes
    less = allocated(model, ram_bytes=resident - 50_000)
    assert less.plan.resident_bytes <= resident - 50_000
    assert less.loss > ample.loss
    # weights stay in a microcontroller's flash: RAM is the context's
    pico = allocate(model, load("pico"), Budget(), context=16)
    assert pico.plan.image_bytes <= load("pico").device.image_bytes
    with pytest.raises(BudgetError, match="stay in flash here"):
        allocate(model, load("pico"), Budget(ram_bytes=1000), context=16)


def test_a_rate_is_a_budget_of_bytes(model: Path):
    board = load("pi5")
    slow = allocate(model, board, Budget(), context=64)
    assert set(slow.recipe.types.values()) == {"q8_0"}
    rate = board.linux.read_bytes_per_second / 150_000
    fast = allocate(model, board, Budget(tokens_per_second=rate), context=64)
    assert fast.plan.image_bytes < slow.plan.image_bytes
    with pytest.raises(UsageError, match="how fast x86-64 reads its memory is not known"):
        allocated(model, tokens_per_second=10)


@pytest.mark.parametrize(
    ("budget", "error", "told"),
    [
        ({}, UsageError, "x86-64 limits nothing"),
        ({"flash_bytes": 50_000}, BudgetError, "smallest types the image takes"),
        ({"ram_bytes": 50_000}, BudgetError, "arena for 64 tokens and the runtime"),
        ({"flash_bytes": 300_000, "kl": 1e-9}, BudgetError, "--max-kl 1e-09: within"),
        ({"kl": 0.0}, UsageError, "--max-kl 0.0: must be above zero"),
        ({"tokens_per_second": float("nan")}, UsageError, "--min-tokens-s nan"),
    ],
)
def test_what_cannot_be_is_refused(model: Path, budget, error, told):
    with pytest.raises(error, match=told):
        allocated(model, **budget)


def test_the_command_line(model: Path, qedge, tmp_path: Path, monkeypatch):
    image, recipe = tmp_path / "i.qimg", tmp_path / "r.json"
    words = ["build", model, "-b", "x86-64", "--context", "64", "-o", image]
    done = qedge(*words, "--fit-flash", "350K", "--save-recipe", recipe, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["quant"] == "auto" and told["bytes"] <= 350 << 10
    assert "nats a token" in done.stderr
    saved = json.loads(recipe.read_text())
    assert saved["image_bytes"] <= 350 << 10 and len(saved["types"]) == 22
    again = tmp_path / "again.qimg"
    done = qedge(*words[:-1], again, "--recipe", recipe)
    assert done.returncode == 0, done.stderr
    assert again.read_bytes() == image.read_bytes()
    done = qedge(*words, "-q", "a4", "--fit-flash", "350K")
    assert done.returncode == 2 and "--fit-flash goes with --quant auto" in done.stderr
    done = qedge(*words, "-q", "auto", "--embedding", "q8_0")
    assert done.returncode == 2 and "--quant auto says every type" in done.stderr


def test_groups_are_thirds_of_the_layers(model: Path):
    source = open_source(model)
    names = [sensitivities.group_of(source, f"blk.{n}.attn_q.weight") for n in range(3)]
    assert names == ["attn_q 1 of 3", "attn_q 2 of 3", "attn_q 3 of 3"]
    assert sensitivities.group_of(source, "token_embd.weight") == "token_embd"


def test_a_divergence_is_none_from_itself():
    logits = np.random.default_rng(1).standard_normal((4, 9)).astype(np.float32)
    shares = sensitivities.softmax(logits.copy())
    assert sensitivities.divergence(shares, logits.copy()) == pytest.approx(0, abs=1e-6)
    assert sensitivities.divergence(shares, logits[:, ::-1].copy()) > 0.1
