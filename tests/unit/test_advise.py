"""What to build for a board: through the command line, on tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime import BudgetError, UsageError
from qedge.toolkit import board
from qedge.toolkit.cli import show
from qedge.toolkit.make import advise as advising
from qedge.toolkit.make import write as writing_images
from qedge.toolkit.make.advise import Advice, Choice, advise, worth
from qedge.toolkit.quant.recipe import FORMATS, SMOLLM2_KL, usual

Run = Callable[..., "subprocess.CompletedProcess[str]"]
LITTLE = TinyConfig(dim=128, ffn=256, context=4096)
LARGER = TinyConfig(layers=4, dim=256, ffn=512, vocab_size=600, context=4096)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "qedge.toolkit", *(os.fspath(str(w)) for w in words)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
        )

    return call


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("larger") / "larger.gguf"
    return write_gguf(path, LARGER, make_weights(5, LARGER))


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("little") / "little.gguf"
    return write_gguf(path, LITTLE, make_weights(5, LITTLE))


def found(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


@pytest.fixture
def no_longer_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other models' figures count for models of any size."""
    monkeypatch.setattr(advising, "TINY", 0)


def choice_of(told: Advice, quant: str) -> Choice:
    return next(choice for choice in told.choices if choice.quant == quant)


def picked(told: Advice) -> dict[str, str]:
    return {pick.goal: pick.quant for pick in told.picks}


def test_json_has_every_format_that_compare_has_and_three_picks(run: Run, larger: Path) -> None:
    told = found(run("advise", larger, "-b", "pi5", "--json"))
    assert [choice["quant"] for choice in told["choices"]] == list(usual("f32"))
    assert all(choice["fits"] and choice["context"] == 2048 for choice in told["choices"])
    by_size = sorted(told["choices"], key=lambda choice: -choice["image_bytes"])
    speeds = [choice["predicted_tokens_per_second"] for choice in by_size]
    assert speeds == sorted(speeds)
    assert {goal: pick["quant"] for goal, pick in told["picks"].items()} == {
        "accuracy": "f32",
        "balance": "q8_0",
        "smallest": "a3",
    }
    assert "not measured for so small a model" in told["picks"]["balance"]["reason"]
    for key in ("smollm2_kl_mean", "measured_kl_mean"):
        assert {choice[key] for choice in told["choices"]} == {None}
    assert "predicted speeds count memory alone" in told["notes"][0]


def test_sizes_are_those_that_a_build_has(run: Run, larger: Path, tmp_path: Path) -> None:
    told = found(run("advise", larger, "-b", "pi4", "--context", "256", "--json"))
    choice = next(choice for choice in told["choices"] if choice["quant"] == "q8_0")
    words = ["-b", "pi4", "-q", "q8_0", "--context", "256", "-o", tmp_path / "m.qimg", "--json"]
    built = found(run("build", larger, *words))
    assert choice["arena_bytes"] == built["arena_bytes"]
    assert choice["resident_bytes"] == built["resident_bytes"]
    assert 0 <= choice["image_bytes"] - built["bytes"] < 300_000
    assert choice["predicted_tokens_per_second"] == built["predicted_tokens_per_second"]


def test_text_names_speeds_and_reasons(run: Run, larger: Path) -> None:
    done = run("advise", larger, "-b", "pi5")
    assert done.returncode == 0 and done.stderr == ""
    assert "tokens/s" in done.stdout and "accuracy: f32: " in done.stdout
    assert "no speed is predicted" in run("advise", larger, "-b", "arm64").stdout


def test_formats_more_exact_than_the_file_are_left_out(tmp_path: Path) -> None:
    weights, pi5 = make_weights(5, LARGER), board.load("pi5")
    for stored, most in (("F16", "f16"), ("BF16", "bf16"), ("Q8_0", "keep"), ("Q4_0", "keep")):
        model = write_gguf(tmp_path / f"{stored}.gguf", LARGER, weights, {"*": stored})
        told = advise(model, pi5)
        assert told.stored == stored
        assert tuple(choice.quant for choice in told.choices) == usual(most)
        assert [pick.goal for pick in told.picks] == ["accuracy", "balance", "smallest"]
        assert told.picks[0].quant == most
        assert most in ("f16", "bf16") or picked(told)["balance"] == "keep"


def test_what_a_board_refuses_is_left_out_and_said(tmp_path: Path) -> None:
    config, name, sim = TinyConfig(), "blk.0.ffn_up.weight", board.load("sim")
    weights = make_weights(5, config)
    rows, columns = weights.pop(name).shape
    table = {name: (np.full((rows, columns // 32 * 18), 0x21, np.uint8), "IQ4_NL")}
    model = write_gguf(tmp_path / "m.gguf", config, weights, {"*": "Q8_0"}, raw=table)
    assert advise(model, board.load("pi5")).choices[0].quant == "keep"
    told = advise(model, sim)
    assert tuple(choice.quant for choice in told.choices) == usual("keep")[1:]
    assert picked(told)["accuracy"] == "q8_0" and "finer" in told.picks[0].reason
    assert "keep is left out" in told.notes[0] and "too slow on sim" in told.notes[0]


def test_every_format_but_a_files_own_precision_has_a_known_loss() -> None:
    assert set(FORMATS) - set(SMOLLM2_KL) == {"f32", "bf16", "f16", "keep"}
    assert set(SMOLLM2_KL) <= set(FORMATS)


@pytest.mark.usefixtures("no_longer_tiny")
def test_loss_of_an_unmeasured_model_is_smollm2s_and_marked_so(
    larger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = advise(larger, board.load("pi5"))
    assert told.choices[0].reference == 0.0 and told.choices[0].quant == "f32"
    assert {one.quant: one.reference for one in told.choices[1:]} == SMOLLM2_KL
    assert all("(SmolLM2-135M)" in one.accuracy for one in told.choices[1:])
    assert "was measured of SmolLM2-135M, not of this model" in told.notes[0]
    best = min(told.choices, key=lambda one: worth(one.plan.image_bytes, one.reference or 0.0))
    assert picked(told) == {"accuracy": "f32", "balance": best.quant, "smallest": "a3"}
    show.advice(told)
    shown = capsys.readouterr().out.splitlines()
    assert f"~{SMOLLM2_KL['a4_M']:.4f}" in next(line for line in shown if line[:4] == "a4_M")


@pytest.mark.usefixtures("no_longer_tiny")
def test_measured_loss_counts_before_smollm2s(larger: Path) -> None:
    figures = {"top1": 0.9, "perplexity": 11.0, "perplexity_base": 10.0}
    table = {
        "base": "f32",
        "text": "a text",
        "chunks": 4,
        "formats": {
            "f32": {"kl_mean": 0.0, **figures},
            "a3": {"kl_mean": 1.5, **figures},
            "a6": {"kl_mean": 0.0001, **figures},
            "a4_M": {"kl_mean": 0.9, **figures},
        },
    }
    told = advise(larger, board.load("pi5"), measured=table)
    assert choice_of(told, "a6").kl == 0.0001
    assert choice_of(told, "a6").reference == SMOLLM2_KL["a6"]
    assert choice_of(told, "a5").kl is None
    losses = {one.quant: worth(one.plan.image_bytes, one.loss or 0.0) for one in told.choices}
    assert picked(told)["balance"] == min(losses, key=losses.__getitem__) != "a4_M"
    assert "as `qedge compare` measured it" in told.notes[0]
    # more than a nat is no model any more, however small it is
    small = choice_of(told, picked(told)["smallest"]).plan.image_bytes
    assert choice_of(told, "a3").plan.image_bytes < small
    assert small == min(one.plan.image_bytes for one in told.choices if one.quant != "a3")


def test_table_fits_100_columns(larger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = advise(larger, board.load("pi5"))
    plan = replace(
        told.choices[0].plan,
        context=131072,
        image_bytes=1023 << 20,
        arena_bytes=1023 << 20,
    )
    rows = [replace(one, plan=plan, reference=0.5) for one in told.choices]
    show.advice(replace(told, choices=tuple(rows), picks=()))
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 3 + len(rows) and max(map(len, shown)) <= 100


def test_microcontroller_has_slot_and_arena(little: Path) -> None:
    told = advise(little, board.load("sim"))
    fits = {choice.quant: choice.fits for choice in told.choices}
    assert not fits["f32"] and fits["q8_0"] and fits["a4"]
    lacking = told.choices[0]
    assert "a slot of sim holds" in str(lacking.lacks)
    assert lacking.prediction.tokens_per_second is None
    assert told.picks[0].reason.startswith("the most exact that fits")
    for choice in told.choices:
        assert choice.plan.resident_bytes == choice.plan.arena_bytes


def test_auto_takes_a_shorter_context_where_2048_tokens_do_not_fit(larger: Path) -> None:
    roomy = board.load("pi5")
    whole = choice_of(advise(larger, roomy), "q4_0").plan
    enough = (whole.resident_bytes + (160 << 20)) * 16 // 15
    tight = board.with_ram(roomy, enough - 500_000)
    choice = choice_of(advise(larger, tight), "q4_0")
    assert choice.fits and choice.plan.context < 2048 and choice.plan.context == choice.longest


def test_format_that_leaves_hardly_a_context_is_not_picked(larger: Path) -> None:
    roomy = board.load("pi5")
    least = advise(larger, roomy, 64).choices[0].plan
    tight = board.with_ram(roomy, (least.resident_bytes + (160 << 20)) * 16 // 15 + 64)
    told = advise(larger, tight)
    assert told.choices[0].fits and told.choices[0].plan.context < 512
    assert told.picks[0].quant == "q8_0" and "tokens only" in told.picks[0].reason


def test_balance_takes_the_fastest_where_its_pick_is_too_slow_to_read_along(
    larger: Path,
) -> None:
    pi4 = board.load("pi4")
    read = choice_of(advise(larger, pi4), "q8_0").prediction.read_bytes_per_token
    for rate, quant in ((4.9, "a3"), (5.1, "q8_0")):
        linux = replace(board.linux_of(pi4), read_bytes_per_second=int(rate * read))
        assert picked(advise(larger, replace(pi4, linux=linux)))["balance"] == quant


def test_nothing_that_fits_is_exit_code_7_and_says_what_would(
    run: Run, larger: Path, little: Path
) -> None:
    done = run("advise", larger, "-b", "pi4", "--ram", "150M", "--json")
    assert done.returncode == 7 and json.loads(done.stdout)["error"] == "BudgetError"
    assert "--ram 256M" in done.stderr and "pi5" in done.stderr
    done = run("advise", little, "-b", "sim", "--context", "4096")
    assert done.returncode == 7 and "try --context" in done.stderr


def test_ram_of_a_board_can_be_given_and_not_of_a_microcontroller(
    run: Run, larger: Path, tmp_path: Path
) -> None:
    words = ["build", larger, "-b", "pi5", "-o", tmp_path / "m.qimg", "--json"]
    assert run(*words, "--ram", "100M").returncode == 7
    assert found(run(*words, "--ram", "4G"))["context"] == 4096
    done = run("advise", larger, "-b", "pico", "--ram", "4G")
    assert done.returncode == 2 and "board file" in done.stderr
    assert run("advise", larger, "-b", "pi5", "--ram", "much").returncode == 2


def test_build_predicts_where_the_board_has_figures(
    run: Run, larger: Path, tmp_path: Path
) -> None:
    words = ["build", larger, "--context", "64", "-o", tmp_path / "m.qimg"]
    told = found(run(*words, "-b", "x86-64", "--json"))
    assert told["predicted_tokens_per_second"] is None
    assert told["predicted_load_seconds"] is None
    assert "predicted" not in run(*words, "-b", "x86-64").stderr
    assert "tokens/s, load" in run(*words, "-b", "pi5").stderr


def test_advice_quantizes_nothing(larger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a weight was packed")

    monkeypatch.setattr(writing_images, "pack", refuse)
    assert advise(larger, board.load("pi4")).picks


def test_bad_context_is_refused(larger: Path) -> None:
    with pytest.raises(UsageError, match="trained for 4096"):
        advise(larger, board.load("pi5"), 5000)
    with pytest.raises(UsageError, match="number of tokens"):
        advise(larger, board.load("pi5"), 0)
    with pytest.raises(BudgetError, match="smaller model|would fit"):
        advise(larger, board.with_ram(board.load("pi5"), 1 << 20))
