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

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime import BudgetError, UsageError
from qedge.toolkit import board
from qedge.toolkit.make import build as building
from qedge.toolkit.make.advise import ORDER, advise

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


def test_json_has_every_type_and_three_picks(run: Run, larger: Path) -> None:
    told = found(run("advise", larger, "-b", "pi5", "--json"))
    assert [choice["quant"] for choice in told["choices"]] == list(ORDER)
    assert all(choice["fits"] and choice["context"] == 2048 for choice in told["choices"])
    sizes = [choice["image_bytes"] for choice in told["choices"]]
    speeds = [choice["predicted_tokens_per_second"] for choice in told["choices"]]
    assert sizes == sorted(sizes, reverse=True) and speeds == sorted(speeds)
    assert {goal: pick["quant"] for goal, pick in told["picks"].items()} == {
        "accuracy": "f32",
        "balance": "q8_0",
        "smallest": "q4_0",
    }
    assert "not measured for so small a model" in told["picks"]["balance"]["reason"]
    assert {choice["llama3_8b_perplexity_percent"] for choice in told["choices"]} == {None}
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


def test_types_that_hold_no_more_than_the_file_are_not_picked(tmp_path: Path) -> None:
    weights, pi5 = make_weights(5, LARGER), board.load("pi5")
    for stored, most in (("F16", "f16"), ("Q8_0", "q8_0"), ("Q4_0", "q4_0")):
        model = write_gguf(tmp_path / f"{stored}.gguf", LARGER, weights, {"*": stored})
        told = advise(model, pi5)
        assert told.stored == stored
        assert [pick.goal for pick in told.picks] == ["accuracy", "balance", "smallest"]
        assert told.picks[0].quant == most
        assert all(ORDER.index(pick.quant) >= ORDER.index(most) for pick in told.picks)


def test_microcontroller_has_slot_and_arena(little: Path) -> None:
    told = advise(little, board.load("sim"))
    fits = {choice.quant: choice.fits for choice in told.choices}
    assert not fits["f32"] and fits["q8_0"] and fits["q4_0"]
    lacking = told.choices[0]
    assert "a slot of sim holds" in str(lacking.lacks)
    assert lacking.prediction.tokens_per_second is None
    assert told.picks[0].reason.startswith("the most exact that fits")
    for choice in told.choices:
        assert choice.plan.resident_bytes == choice.plan.arena_bytes


def test_auto_takes_a_shorter_context_where_2048_tokens_do_not_fit(larger: Path) -> None:
    roomy = board.load("pi5")
    whole = advise(larger, roomy).choices[3].plan
    enough = (whole.resident_bytes + (160 << 20)) * 16 // 15
    tight = board.with_ram(roomy, enough - 500_000)
    choice = advise(larger, tight).choices[3]
    assert choice.fits and choice.plan.context < 2048 and choice.plan.context == choice.longest


def test_type_that_leaves_hardly_a_context_is_not_picked(larger: Path) -> None:
    roomy = board.load("pi5")
    least = advise(larger, roomy, 64).choices[0].plan
    tight = board.with_ram(roomy, (least.resident_bytes + (160 << 20)) * 16 // 15 + 64)
    told = advise(larger, tight)
    assert told.choices[0].fits and told.choices[0].plan.context < 512
    assert told.picks[0].quant == "f16" and "tokens only" in told.picks[0].reason


def test_balance_takes_q4_0_where_q8_0_is_too_slow_to_read_along(larger: Path) -> None:
    pi4 = board.load("pi4")
    read = advise(larger, pi4).choices[2].prediction.read_bytes_per_token
    for rate, quant in ((4.9, "q4_0"), (5.1, "q8_0")):
        linux = replace(board.linux_of(pi4), read_bytes_per_second=int(rate * read))
        picks = advise(larger, replace(pi4, linux=linux)).picks
        assert picks[1].goal == "balance" and picks[1].quant == quant


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

    monkeypatch.setattr(building, "pack", refuse)
    assert advise(larger, board.load("pi4")).picks


def test_bad_context_is_refused(larger: Path) -> None:
    with pytest.raises(UsageError, match="trained for 4096"):
        advise(larger, board.load("pi5"), 5000)
    with pytest.raises(UsageError, match="number of tokens"):
        advise(larger, board.load("pi5"), 0)
    with pytest.raises(BudgetError, match="smaller model|would fit"):
        advise(larger, board.with_ram(board.load("pi5"), 1 << 20))
