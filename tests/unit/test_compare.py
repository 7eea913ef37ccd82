"""The formats of a model compared: the same figures whoever works, what is kept and goes on,
and what is shown. Speeds are given, not measured: they are tests/unit/test_speeds.py's."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime import ImageError, Model, QedgeError, ToolError, UsageError
from qedge.toolkit.board import load
from qedge.toolkit.make.advise import advise, worth
from qedge.toolkit.make.auto import image_for
from qedge.toolkit.make.build import build
from qedge.toolkit.quality import compare as comparing
from qedge.toolkit.quality import formats, page, pieces, pool, speeds, table
from qedge.toolkit.quality.compare import Comparison, Way, compare
from qedge.toolkit.quality.digest import model_digest
from qedge.toolkit.quality.evaluate import against
from qedge.toolkit.quality.measured import measured_of, table_of
from qedge.toolkit.quant.recipe import own_precision, usual

Call = Callable[..., "subprocess.CompletedProcess[str]"]
CONFIG = TinyConfig(layers=1, context=64)
TEXT = b"the rain in the street is a thing that one can hear at night " * 60
PI5 = load("pi5")
QUANTS = ["f16", "q8_0", "q4_0"]  # beside f32, which is the file's own


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare") / "tiny.gguf"
    return write_gguf(path, CONFIG, make_weights(1, CONFIG))


@pytest.fixture(scope="module")
def found(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    cache = tmp_path_factory.mktemp("cache")
    return compare(model, PI5, quant=QUANTS, text=TEXT, cache=cache)


def without_paths(found: Comparison) -> list[Any]:
    return [replace(row, facts=replace(row.facts, path="")) for row in found.formats]


def qualities(found: Comparison) -> list[Any]:
    return [row.quality for row in found.formats]


# ---- figures ----


def test_every_format_is_compared_with_the_files_own_precision(found: Comparison) -> None:
    assert [row.quant for row in found.formats] == ["f32", *QUANTS]
    assert found.base == "f32" and found.formats[0].is_base
    losses = [row.quality.kl_mean for row in found.formats]
    assert losses[0] == 0 and losses == sorted(losses) and losses[-1] > 0.01
    sizes = [row.facts.bytes for row in found.formats]
    assert sizes == sorted(sizes, reverse=True)
    assert found.formats[-1].facts.bits_per_weight < 9


def test_figures_are_those_of_eval_against(
    found: Comparison, model: Path, tmp_path: Path
) -> None:
    images = [
        build(model, load("host"), tmp_path / f"{q}.qimg", quant=q, context=64).image
        for q in ("f32", "q4_0")
    ]
    with Model.open(images[0]) as base, Model.open(images[1]) as other:
        wanted = against(other, base, TEXT, 64).divergence
    assert found.formats[-1].quality == wanted
    assert found.formats[0].quality.perplexity == wanted.perplexity_base


def test_whoever_works_the_figures_are_the_same_bit_for_bit(
    found: Comparison, model: Path, tmp_path: Path
) -> None:
    several = compare(model, PI5, quant=QUANTS, text=TEXT, way=Way(workers=2), cache=tmp_path)
    assert qualities(several) == qualities(found)


def test_formats_one_at_a_time_or_together_are_the_same(
    found: Comparison, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "in_memory", lambda: 1)
    assert qualities(compare(model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)) == qualities(
        found
    )


def test_a_dask_cluster_gives_the_same_and_gets_images_that_it_does_not_see(
    found: Comparison, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    from qedge.toolkit.quality import cluster

    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "theirs"))  # the workers' own
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as there:
        options: dict[str, Any] = {
            "quant": QUANTS,
            "text": TEXT,
            "way": Way(dask=there.scheduler_address),
        }
        assert qualities(compare(model, PI5, cache=tmp_path / "a", **options)) == qualities(
            found
        )
        assert not (tmp_path / "theirs" / "compare" / "sent").exists()
        whole = cluster.found_here

        def blind(ref: pieces.Ref, *rest: Any) -> Any:
            return whole(replace(ref, path="/nowhere"), *rest)

        monkeypatch.setattr(cluster, "found_here", blind)
        assert qualities(compare(model, PI5, cache=tmp_path / "b", **options)) == qualities(
            found
        )
    assert len(list((tmp_path / "theirs" / "compare" / "sent").glob("*.qimg"))) == 1 + len(
        QUANTS
    )


def test_a_dask_worker_that_is_killed_costs_its_pieces_alone(work: list[pieces.Piece]) -> None:
    distributed = pytest.importorskip("distributed")
    from qedge.toolkit.quality import cluster

    wanted = dict(pool.here(work * 5))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as there:
        victim = next(iter(there.workers.values())).pid
        got = {}
        for number, found in cluster.by_cluster(work * 5, there.scheduler_address):
            if not got:
                os.kill(victim, signal.SIGKILL)
            got[number] = found
    assert got == wanted


def test_no_scheduler_is_said_in_words(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    from qedge.toolkit.quality import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_SECONDS", 1)
        with pytest.raises(QedgeError, match="no scheduler answers"):
            next(cluster.by_cluster([], "tcp://127.0.0.1:9"))


def test_samples_of_the_model_are_the_text_when_none_is_given(
    model: Path, tmp_path: Path
) -> None:
    first = compare(model, PI5, quant=["q8_0"], chunks=3, cache=tmp_path / "a")
    again = compare(model, PI5, quant=["q8_0"], chunks=3, cache=tmp_path / "b")
    assert first.text == "the model's own samples" and first.chunks == 3
    assert qualities(first) == qualities(again)
    for image in (tmp_path / "a").rglob("*.qimg"):  # damaged meanwhile: made again
        image.write_bytes(image.read_bytes()[:-4096] + bytes(4096))
    more = compare(model, PI5, quant=["q8_0"], chunks=4, cache=tmp_path / "a")
    assert qualities(more) == qualities(
        compare(model, PI5, quant=["q8_0"], chunks=4, cache=tmp_path / "c")
    )
    assert more.chunks == 4 and qualities(more) != qualities(first)


def test_own_precision_is_the_files_type_or_f16() -> None:
    kinds = ("F32", "F16", "BF16", "Q8_0", "Q4_1", "IQ2_XS")
    assert [own_precision(kind) for kind in kinds] == [
        *("f32", "f16", "bf16", "keep", "keep", "f16")
    ]
    assert usual("keep")[0] == "keep" and "f16" not in usual("keep")


# ---- what is kept ----


def test_a_second_run_builds_measures_and_evaluates_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare(model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("made again")

    for module, name in ((formats, "build"), (pool, "here"), (formats, "open_source")):
        monkeypatch.setattr(module, name, refuse)
    again = compare(model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
    assert again.formats == first.formats and again.picks == first.picks


def test_an_interrupted_comparison_goes_on_where_it_was(
    found: Comparison, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def interrupt(step: str, count: int, of: int) -> None:
        if step == "evaluate" and count == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path, progress=interrupt)
    whole = pool.here

    def counted(todo: Any) -> Generator[pool.Done]:
        done.append(len(todo))
        return whole(todo)

    monkeypatch.setattr(pool, "here", counted)
    again = compare(model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
    assert done == [-(-again.chunks // pieces.CHUNKS_AT_ONCE) - 2]
    assert qualities(again) == qualities(found)


def test_an_interruption_ends_the_workers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[pool.Worker] = []
    begin = pool.Worker.__init__

    def begun(self: pool.Worker) -> None:
        begin(self)
        made.append(self)

    def interrupt(step: str, count: int, of: int) -> None:
        if step == "evaluate" and count == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(pool.Worker, "__init__", begun)
    with pytest.raises(KeyboardInterrupt):
        compare(
            model,
            PI5,
            quant=QUANTS,
            text=TEXT,
            way=Way(workers=2),
            cache=tmp_path,
            progress=interrupt,
        )
    assert len(made) == 2 and all(one.process.poll() is not None for one in made)


def test_another_format_later_evaluates_it_alone(model: Path, tmp_path: Path) -> None:
    compare(model, PI5, quant=["q8_0"], text=TEXT, cache=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.f64")}
    both = compare(model, PI5, quant=["q8_0", "q4_0"], text=TEXT, cache=tmp_path)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert len(list(tmp_path.rglob("*.f64"))) == 2 * len(before)
    assert [row.quant for row in both.formats] == ["f32", "q8_0", "q4_0"]


@pytest.mark.parametrize("damage", ["flip", "cut", "hash"])
def test_damaged_files_of_the_cache_are_made_again(
    found: Comparison, model: Path, tmp_path: Path, damage: str
) -> None:
    compare(model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
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
    again = compare(model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
    assert again.formats == found.formats or [r.quality for r in again.formats] == qualities(
        found
    )


def test_another_model_text_or_context_is_not_taken_for_this_one(
    found: Comparison, model: Path, tmp_path: Path
) -> None:
    compare(model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
    other = write_gguf(tmp_path / "tiny.gguf", CONFIG, make_weights(2, CONFIG))
    assert qualities(compare(other, PI5, text=TEXT, cache=tmp_path)) != qualities(found)
    words = TEXT.replace(b"rain", b"wind")
    assert qualities(
        compare(model, PI5, quant=QUANTS, text=words, cache=tmp_path)
    ) != qualities(found)


def test_two_processes_at_once_give_the_same(
    qedge: Call, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path))
    answers: list[Any] = []

    def one() -> None:
        done = qedge("compare", model, "-b", "pi5", "--chunks", 5, "--json")
        answers.append(json.loads(done.stdout) if done.returncode == 0 else done.stderr)

    both = [threading.Thread(target=one) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert answers[0]["formats"] == answers[1]["formats"]


def test_the_table_is_kept_for_advise(found: Comparison, model: Path, tmp_path: Path) -> None:
    assert measured_of(model, cache=tmp_path) is None
    compare(model, PI5, quant=["q8_0"], text=TEXT, cache=tmp_path)
    compare(model, PI5, quant=["q4_0"], text=TEXT, cache=tmp_path)
    told = measured_of(model, cache=tmp_path)
    assert told == table_of(model_digest(model), tmp_path / "compare") and told is not None
    assert set(told["formats"]) == {"f32", "q8_0", "q4_0"}
    assert told["formats"]["q4_0"]["kl_mean"] == found.formats[-1].quality.kl_mean
    for path in (tmp_path / "compare" / "tables").iterdir():
        path.write_bytes(b"[]")
    assert measured_of(model, cache=tmp_path) is None


def test_advise_says_what_was_measured_of_the_model(
    found: Comparison, model: Path, tmp_path: Path
) -> None:
    compare(model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
    told = advise(model, PI5, measured=measured_of(model, cache=tmp_path))
    kl = {row.quant: row.quality.kl_mean for row in found.formats if row.quant != "f16"}
    known = [choice for choice in told.choices if choice.kl is not None]
    assert {choice.quant: choice.kl for choice in known} == kl
    assert all("(measured)" in choice.accuracy for choice in known[1:])
    best = min(known, key=lambda one: worth(one.plan.image_bytes, one.kl or 0.0))
    assert told.picks[1].quant == best.quant
    assert "as `qedge compare` measured it" in told.notes[0]
    assert all("(measured)" not in choice.accuracy for choice in advise(model, PI5).choices)


def test_formats_more_exact_than_the_file_are_not_made_unasked(tmp_path: Path) -> None:
    half = write_gguf(tmp_path / "half.gguf", CONFIG, make_weights(1, CONFIG), {"*": "F16"})
    told = compare(half, PI5, text=TEXT, chunks=1, cache=tmp_path)
    assert tuple(row.quant for row in told.formats) == usual("f16")
    assert usual("f16")[:3] == ("f16", "q8_0", "a6") and len(usual("f16")) == 10


# ---- workers ----


@pytest.fixture
def work(model: Path, tmp_path: Path) -> list[pieces.Piece]:
    refs = []
    for quant in ("f32", "q4_0"):
        built = build(model, load("host"), tmp_path / f"{quant}.qimg", quant=quant, context=64)
        refs.append(pieces.Ref(str(built.image), built.image_id))
    tokens = [tuple((n * 7 + k) % 300 for k in range(32)) for n in range(6)]
    return [pieces.Piece(refs[0], (refs[1],), (chunk,)) for chunk in tokens]


def test_a_worker_that_is_killed_costs_its_piece_alone(work: list[pieces.Piece]) -> None:
    wanted = dict(pool.here(work))
    crew = pool._Crew(work, 2)
    try:
        while (victim := crew.workers[0]) is None:
            pass
        victim.process.kill()
        got = [crew.done.get(timeout=60) for _ in work]
        assert crew.workers[0] is not victim
    finally:
        crew.close()
    assert {number: found for number, found in got} == wanted  # noqa: C416


def test_workers_that_always_die_end_in_words(
    work: list[pieces.Piece], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "import os; os._exit(9)"]
    whole = subprocess.Popen

    monkeypatch.setattr(pool.subprocess, "Popen", lambda _, **to: whole(command, **to))
    with pytest.raises(ToolError, match="3 workers died"):
        list(pool.by_processes(work, 2))
    with pytest.raises(ToolError, match="ended early"):
        pool.asked({"bench": "x"})


def test_what_a_worker_refuses_is_said(work: list[pieces.Piece]) -> None:
    gone = replace(work[0], base=pieces.Ref("/nowhere.qimg", "0"))
    with pytest.raises(ImageError, match="nowhere"):
        list(pool.by_processes([gone], 2))
    other = replace(work[0], base=replace(work[0].base, id="0" * 64))
    with pytest.raises(UsageError, match="another image"):
        list(pool.by_processes([other], 2))


def test_a_worker_of_another_version_is_refused(work: list[pieces.Piece]) -> None:
    told = work[0].fields()
    assert pieces.Piece.of(json.loads(json.dumps(told))) == work[0]
    with pytest.raises(UsageError, match="one version everywhere"):
        pieces.Piece.of({**told, "version": "0.0.0"})


def test_sets_of_formats_fit_into_memory(work: list[pieces.Piece]) -> None:
    base, other = work[0].base, work[0].others[0]
    size = Path(other.path).stat().st_size
    room = Path(base.path).stat().st_size + 2 * size
    assert [len(one) for one in pieces.sets_of([other] * 5, base, room)] == [2, 2, 1]
    assert [len(one) for one in pieces.sets_of([other] * 3, base, 0)] == [1, 1, 1]
    assert [len(one) for one in pieces.sets_of([other] * 3, base, None)] == [3]


# ---- speeds and boards ----


def test_this_machine_is_measured_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def here(image: Path, context: int) -> dict[str, Any]:
        asked.append(image)
        return pool.asked({"bench": str(image), "rounds": {"repeat": 1, **SHORT}})

    monkeypatch.setattr(speeds, "here", here)
    options: dict[str, Any] = {"quant": ["q8_0"], "text": TEXT, "cache": tmp_path}
    told = [compare(model, load("host"), **options) for _ in range(2)]
    assert len(asked) == 2 and told[0].formats == told[1].formats  # the base, too
    speed = told[0].formats[1].speed
    assert speed.how == "measured" and speed.decode and speed.prefill and speed.peak_bytes
    assert any("in doubt" in note for note in told[0].notes)  # one round is too few


SHORT = {"prompt_tokens": 8, "decode_tokens": 4}


def test_other_boards_are_predicted_and_marked_so(found: Comparison) -> None:
    speed = found.formats[-1].speed
    assert speed.how == "predicted" and speed.decode and speed.prefill is None
    assert any("predicted" in note for note in found.notes)
    assert "~" in table.cells(found.formats[-1])[6]


def test_a_format_without_room_is_measured_and_not_picked(model: Path, tmp_path: Path) -> None:
    sim = load("sim")
    larger = TinyConfig(dim=128, ffn=256, context=64)
    big = write_gguf(tmp_path / "big.gguf", larger, make_weights(1, larger))
    told = compare(big, sim, text=TEXT, cache=tmp_path)
    fits = {row.quant: row.facts.lacks is None for row in told.formats}
    assert not fits["f32"] and fits["q4_0"]
    assert all(fits[pick.quant] for pick in told.picks)
    assert "no room" in table.cells(told.formats[0])[0]
    assert told.formats[1].quality.kl_mean > 0


# ---- what is shown ----


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        assert not {"src", "href", "onload"} & {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_page_has_plots_and_nothing_that_a_model_wrote_as_markup(found: Comparison) -> None:
    hostile = replace(found, model="<script>alert(1)</script>", notes=("<img src=x>",))
    tags = Tags()
    tags.feed(page.render(hostile))
    assert tags.tags.count("svg") == 2 and tags.tags.count("circle") == 2 * 3
    assert not {"script", "img", "link"} & set(tags.tags)
    assert any("<script>" in word for word in tags.words)


def test_verb_writes_table_page_and_picture(
    qedge: Call, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text"
    text.write_bytes(TEXT)
    words = ["compare", model, "-b", "pi5", "-q", "Q8_0,q4_0", "--text", text]
    files = [tmp_path / name for name in ("t.csv", "t.html", "t.png")]
    outputs = [word for path in files for word in (f"--{path.suffix[1:]}", path)]
    done = qedge(*words, *outputs, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [row["format"] for row in told["formats"]] == ["f32", "q8_0", "q4_0"]
    assert set(told["picks"]) == {"accuracy", "balance", "size", "hardware"}
    rows = list(csv.DictReader(files[0].open()))
    assert [row["format"] for row in rows] == ["f32", "q8_0", "q4_0"]
    assert float(rows[2]["kl_mean"]) == told["formats"][2]["kl_mean"]
    assert files[1].read_text().startswith("<!DOCTYPE html>")
    assert files[2].read_bytes().startswith(b"\x89PNG")
    shown = qedge(*words, "--text", "-", input=TEXT.decode())
    assert shown.returncode == 0 and "balance: " in shown.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--text", "/nowhere"], 6),
        (["--text", "BAD"], 6),
        (["--text", "SHORT"], 6),
        (["--quant", "q9"], 2),
        (["--chunks", "0"], 2),
        (["--workers", "0"], 2),
        (["--dask", "tcp://x:1", "--workers", "2"], 2),
        (["--identity", "key"], 2),
        (["--csv", "/nowhere/x.csv"], 8),
    ],
)
def test_wrong_calls_are_refused(
    qedge: Call,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
) -> None:
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "cache"))
    files = {"BAD": b"\xff\xfe" * 900, "SHORT": b"a"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    words = [str(tmp_path / word) if word in files else word for word in words]
    done = qedge("compare", model, "-b", "pi5", *words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_image_is_no_model_to_compare(qedge: Call, model: Path, tmp_path: Path) -> None:
    image = image_for(str(model), lambda _: None, cache=tmp_path)
    done = qedge("compare", image, env={"QEDGE_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 6
