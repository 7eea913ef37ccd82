"""What a comparison keeps: a run that goes on, one that costs nothing, files that are damaged,
and the table that `advise` reads."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from support.compared import CONFIG, PI5, QUANTS, TEXT, qualities
from support.tiny_models import make_weights, write_gguf

from qedge.toolkit.make.advise import advise, worth
from qedge.toolkit.quality import formats, pieces, pool
from qedge.toolkit.quality.compare import Comparison, compare
from qedge.toolkit.quality.digest import model_digest
from qedge.toolkit.quality.measured import measured_of, table_of

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_second_run_builds_measures_and_evaluates_nothing(
    compared_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare(compared_model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("made again")

    for module, name in ((formats, "build"), (pool, "here"), (formats, "open_source")):
        monkeypatch.setattr(module, name, refuse)
    again = compare(compared_model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
    assert again.formats == first.formats and again.picks == first.picks


def test_an_interrupted_comparison_goes_on_where_it_was(
    compared: Comparison, compared_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def interrupt(step: str, count: int, of: int) -> None:
        if step == "evaluate" and count == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(
            compared_model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path, progress=interrupt
        )
    whole = pool.here

    def counted(todo: Any) -> Generator[pool.Done]:
        done.append(len(todo))
        return whole(todo)

    monkeypatch.setattr(pool, "here", counted)
    again = compare(compared_model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
    assert done == [-(-again.chunks // pieces.CHUNKS_AT_ONCE) - 2]
    assert qualities(again) == qualities(compared)


def test_another_format_later_evaluates_it_alone(compared_model: Path, tmp_path: Path) -> None:
    compare(compared_model, PI5, quant=["q8_0"], text=TEXT, cache=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.f64")}
    both = compare(compared_model, PI5, quant=["q8_0", "q4_0"], text=TEXT, cache=tmp_path)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert len(list(tmp_path.rglob("*.f64"))) == 2 * len(before)
    assert [row.quant for row in both.formats] == ["f32", "q8_0", "q4_0"]


@pytest.mark.parametrize("damage", ["flip", "cut", "hash"])
def test_damaged_files_of_the_cache_are_made_again(
    compared: Comparison, compared_model: Path, tmp_path: Path, damage: str
) -> None:
    compare(compared_model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
    for path in tmp_path.rglob("*"):
        if path.suffix in (".f64", ".i32", ".json", ".facts", ".id", ".qimg"):
            data = bytearray(path.read_bytes())
            if damage == "hash":
                path = path.with_name(f"{path.name}.sha256")
                data = bytearray(b"0" * 64) if path.exists() else bytearray()
            elif damage == "cut":
                del data[len(data) // 2 :]
            else:
                data[len(data) // 2] ^= 1
            if data:
                path.write_bytes(data)
    again = compare(compared_model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
    assert again.formats == compared.formats or [r.quality for r in again.formats] == qualities(
        compared
    )


def test_another_model_text_or_context_is_not_taken_for_this_one(
    compared: Comparison, compared_model: Path, tmp_path: Path
) -> None:
    compare(compared_model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
    other = write_gguf(tmp_path / "tiny.gguf", CONFIG, make_weights(2, CONFIG))
    assert qualities(compare(other, PI5, text=TEXT, cache=tmp_path)) != qualities(compared)
    words = TEXT.replace(b"rain", b"wind")
    assert qualities(
        compare(compared_model, PI5, quant=QUANTS, text=words, cache=tmp_path)
    ) != qualities(compared)


def test_two_processes_at_once_give_the_same(
    qedge: Call, compared_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path))
    answers: list[Any] = []

    def one() -> None:
        done = qedge("compare", compared_model, "-b", "pi5", "--chunks", 5, "--json")
        answers.append(json.loads(done.stdout) if done.returncode == 0 else done.stderr)

    both = [threading.Thread(target=one) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert answers[0]["formats"] == answers[1]["formats"]


def test_the_table_is_kept_for_advise(
    compared: Comparison, compared_model: Path, tmp_path: Path
) -> None:
    assert measured_of(compared_model, cache=tmp_path) is None
    compare(compared_model, PI5, quant=["q8_0"], text=TEXT, cache=tmp_path)
    compare(compared_model, PI5, quant=["q4_0"], text=TEXT, cache=tmp_path)
    told = measured_of(compared_model, cache=tmp_path)
    assert (
        told == table_of(model_digest(compared_model), tmp_path / "compare")
        and told is not None
    )
    assert set(told["formats"]) == {"f32", "q8_0", "q4_0"}
    assert told["formats"]["q4_0"]["kl_mean"] == compared.formats[-1].quality.kl_mean
    for path in (tmp_path / "compare" / "tables").iterdir():
        path.write_bytes(b"[]")
    assert measured_of(compared_model, cache=tmp_path) is None


def test_advise_says_what_was_measured_of_the_model(
    compared: Comparison, compared_model: Path, tmp_path: Path
) -> None:
    compare(compared_model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
    told = advise(compared_model, PI5, measured=measured_of(compared_model, cache=tmp_path))
    kl = {row.quant: row.quality.kl_mean for row in compared.formats if row.quant != "f16"}
    known = [choice for choice in told.choices if choice.kl is not None]
    assert {choice.quant: choice.kl for choice in known} == kl
    assert all("(measured)" in choice.accuracy for choice in known[1:])
    best = min(known, key=lambda one: worth(one.plan.image_bytes, one.kl or 0.0))
    assert told.picks[1].quant == best.quant
    assert "as `qedge compare` measured it" in told.notes[0]
    assert all(
        "(measured)" not in choice.accuracy for choice in advise(compared_model, PI5).choices
    )
