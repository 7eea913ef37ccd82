"""The formats of a model compared: figures, speeds, and what is shown. Speeds are given, not
measured."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.compared import CONFIG, PI5, QUANTS, TEXT, qualities
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime import Model
from qedge.toolkit.board import load
from qedge.toolkit.make.auto import image_for
from qedge.toolkit.make.build import build
from qedge.toolkit.quality import page, pool, speeds, table
from qedge.toolkit.quality.compare import Comparison, compare
from qedge.toolkit.quality.evaluate import against
from qedge.toolkit.quant.recipe import own_precision, usual

Call = Callable[..., "subprocess.CompletedProcess[str]"]
SHORT = {"prompt_tokens": 8, "decode_tokens": 4}


# ---- figures ----


def test_every_format_is_compared_with_the_files_own_precision(compared: Comparison) -> None:
    assert [row.quant for row in compared.formats] == ["f32", *QUANTS]
    assert compared.base == "f32" and compared.formats[0].is_base
    losses = [row.quality.kl_mean for row in compared.formats]
    assert losses[0] == 0 and losses == sorted(losses) and losses[-1] > 0.01
    sizes = [row.facts.bytes for row in compared.formats]
    assert sizes == sorted(sizes, reverse=True)
    assert compared.formats[-1].facts.bits_per_weight < 9


def test_figures_are_those_of_eval_against(
    compared: Comparison, compared_model: Path, tmp_path: Path
) -> None:
    images = [
        build(compared_model, load("host"), tmp_path / f"{q}.qimg", quant=q, context=64).image
        for q in ("f32", "q4_0")
    ]
    with Model.open(images[0]) as base, Model.open(images[1]) as other:
        wanted = against(other, base, TEXT, 64).divergence
    assert compared.formats[-1].quality == wanted
    assert compared.formats[0].quality.perplexity == wanted.perplexity_base


def test_samples_of_the_model_are_the_text_when_none_is_given(
    compared_model: Path, tmp_path: Path
) -> None:
    first = compare(compared_model, PI5, quant=["q8_0"], chunks=3, cache=tmp_path / "a")
    again = compare(compared_model, PI5, quant=["q8_0"], chunks=3, cache=tmp_path / "b")
    assert first.text == "the model's own samples" and first.chunks == 3
    assert qualities(first) == qualities(again)
    for image in (tmp_path / "a").rglob("*.qimg"):  # damaged meanwhile: made again
        image.write_bytes(image.read_bytes()[:-4096] + bytes(4096))
    more = compare(compared_model, PI5, quant=["q8_0"], chunks=4, cache=tmp_path / "a")
    assert qualities(more) == qualities(
        compare(compared_model, PI5, quant=["q8_0"], chunks=4, cache=tmp_path / "c")
    )
    assert more.chunks == 4 and qualities(more) != qualities(first)


def test_own_precision_is_the_files_type_or_f16() -> None:
    kinds = ("F32", "F16", "BF16", "Q8_0", "Q4_1", "IQ2_XS")
    assert [own_precision(kind) for kind in kinds] == [
        *("f32", "f16", "bf16", "keep", "keep", "f16")
    ]
    assert usual("keep")[0] == "keep" and "f16" not in usual("keep")


def test_formats_more_exact_than_the_file_are_not_made_unasked(tmp_path: Path) -> None:
    half = write_gguf(tmp_path / "half.gguf", CONFIG, make_weights(1, CONFIG), {"*": "F16"})
    told = compare(half, PI5, text=TEXT, chunks=1, cache=tmp_path)
    assert tuple(row.quant for row in told.formats) == usual("f16")
    assert usual("f16")[:3] == ("f16", "q8_0", "a6") and len(usual("f16")) == 10


# ---- speeds and boards ----


def test_this_machine_is_measured_once(
    compared_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def here(image: Path, context: int) -> dict[str, Any]:
        asked.append(image)
        return pool.asked({"bench": str(image), "rounds": {"repeat": 1, **SHORT}})

    monkeypatch.setattr(speeds, "here", here)
    options: dict[str, Any] = {"quant": ["q8_0"], "text": TEXT, "cache": tmp_path}
    told = [compare(compared_model, load("host"), **options) for _ in range(2)]
    assert len(asked) == 2 and told[0].formats == told[1].formats  # the base, too
    speed = told[0].formats[1].speed
    assert speed.how == "measured" and speed.decode and speed.prefill and speed.peak_bytes
    assert any("in doubt" in note for note in told[0].notes)  # one round is too few


def test_other_boards_are_predicted_and_marked_so(compared: Comparison) -> None:
    speed = compared.formats[-1].speed
    assert speed.how == "predicted" and speed.decode and speed.prefill is None
    assert any("predicted" in note for note in compared.notes)
    assert "~" in table.cells(compared.formats[-1])[6]


def test_a_format_without_room_is_measured_and_not_picked(
    compared_model: Path, tmp_path: Path
) -> None:
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


def test_page_has_plots_and_nothing_that_a_model_wrote_as_markup(compared: Comparison) -> None:
    hostile = replace(compared, model="<script>alert(1)</script>", notes=("<img src=x>",))
    tags = Tags()
    tags.feed(page.render(hostile))
    assert tags.tags.count("svg") == 2 and tags.tags.count("circle") == 2 * 3
    assert not {"script", "img", "link"} & set(tags.tags)
    assert any("<script>" in word for word in tags.words)


def test_verb_writes_table_page_and_picture(
    qedge: Call, compared_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text"
    text.write_bytes(TEXT)
    words = ["compare", compared_model, "-b", "pi5", "-q", "Q8_0,q4_0", "--text", text]
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
    compared_model: Path,
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
    done = qedge("compare", compared_model, "-b", "pi5", *words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_image_is_no_model_to_compare(
    qedge: Call, compared_model: Path, tmp_path: Path
) -> None:
    image = image_for(str(compared_model), lambda _: None, cache=tmp_path)
    done = qedge("compare", image, env={"QEDGE_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 6
