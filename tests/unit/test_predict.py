"""What a board is expected to do: the rule on tiny models, and on published points."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime import Model
from qedge.runtime._engine import KV_TYPES, session_size
from qedge.toolkit import board
from qedge.toolkit.make.budget import Room, engine_config, memory_plan
from qedge.toolkit.make.build import build
from qedge.toolkit.make.predict import (
    Weights,
    kv_bytes,
    load_seconds,
    of_entries,
    of_image,
    predict,
    predict_image,
    read_bytes_per_token,
    tokens_per_second,
)
from qedge.toolkit.make.write import tensor_table
from qedge.toolkit.quant.recipe import Recipe
from qedge.toolkit.source.opening import open_source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PUBLISHED = tomllib.loads(Path(__file__).with_name("published_points.toml").read_text("utf-8"))
POINTS: list[dict[str, Any]] = PUBLISHED["point"]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "prediction.md"
BOARDS = sorted({point["board"] for point in POINTS})


def read_bytes(point: dict[str, Any]) -> int:
    return point["model_bytes"] - point.get("unread_bytes", 0)


def bandwidth(points: list[dict[str, Any]]) -> float:
    return median(read_bytes(point) * point["tokens_per_second"] for point in points)


def error(predicted: float, point: dict[str, Any]) -> float:
    """Of the published rate."""
    return predicted / point["tokens_per_second"] - 1


def rows() -> list[str]:
    """The table of docs/prediction.md."""
    found = []
    for point in POINTS:
        predicted = tokens_per_second(board.load(point["board"]), read_bytes(point))
        assert predicted is not None
        found.append(
            f"| {point['board']} | {point['model']} | {point['quant']} "
            f"| {read_bytes(point) / 1e6:,.0f} | {point['tokens_per_second']:.2f} "
            f"| {predicted:.2f} | {error(predicted, point):+.1%} | {point['source']} |"
        )
    return found


# ---- against published points ----


@pytest.mark.parametrize("name", ["pi4", "pi5"])  # of pi-zero2 there is one point
def test_median_error_against_published_points_is_at_most_10_percent(name: str) -> None:
    found = board.load(name)
    points = [point for point in POINTS if point["board"] == name]
    errors = []
    for point in points:
        predicted = tokens_per_second(found, read_bytes(point))
        assert predicted is not None
        errors.append(abs(error(predicted, point)))
    print(
        f"\n{name}: {len(points)} points, median {median(errors):.1%}, most {max(errors):.1%}"
    )
    assert median(errors) <= 0.10


@pytest.mark.parametrize("name", ["pi4", "pi5"])
def test_points_of_a_source_are_predicted_from_the_others_within_10_percent(name: str) -> None:
    points = [point for point in POINTS if point["board"] == name]
    errors = []
    for source in {point["source"] for point in points}:
        fitted = bandwidth([point for point in points if point["source"] != source])
        held_out = [point for point in points if point["source"] == source]
        errors += [abs(error(fitted / read_bytes(point), point)) for point in held_out]
    print(f"\n{name}: median {median(errors):.1%} of {len(errors)} points left out by source")
    assert median(errors) <= 0.10


@pytest.mark.parametrize("name", BOARDS)
def test_board_file_has_the_median_of_its_points(name: str) -> None:
    linux = board.linux_of(board.load(name))
    fitted = bandwidth([point for point in POINTS if point["board"] == name])
    assert linux.read_bytes_per_second == pytest.approx(fitted, rel=0.01)


def test_every_point_has_an_address_and_there_are_enough_of_the_pi_5() -> None:
    assert sum(point["board"] == "pi5" for point in POINTS) >= 14
    for point in POINTS:
        assert PUBLISHED["sources"][point["source"]].startswith("https://")
        assert 0 <= point.get("unread_bytes", 0) < point["model_bytes"]


def test_page_shows_every_point_with_its_error() -> None:
    print("\n" + "\n".join(rows()))
    shown = PAGE.read_text("utf-8").splitlines()
    assert [row for row in rows() if row not in shown] == []


# ---- the rule ----


def test_embedding_of_its_own_counts_one_row_and_a_tied_one_whole() -> None:
    embedding, output, norm = Weights(0, 10, 1000), Weights(2, 10, 2000), Weights(1, 1, 40)
    assert read_bytes_per_token([embedding, norm]) == 1040
    assert read_bytes_per_token([embedding, norm, output]) == 100 + 40 + 2000
    assert read_bytes_per_token([embedding, norm], kv_bytes=60) == 1100


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_image_is_predicted_as_it_was_before_building(tied: bool, tmp_path: Path) -> None:
    config = TinyConfig(tied=tied)
    model = write_gguf(tmp_path / "m.gguf", config, make_weights(3, config))
    pi5, source = board.load("pi5"), open_source(model)
    entries = tensor_table(source, Recipe.of(source, "q4_0", None, None), pi5)
    built = build(model, pi5, tmp_path / "m.qimg", quant="q4_0")
    with Model.open(built.image) as opened:
        assert sorted(map(repr, of_image(opened.image))) == sorted(
            map(repr, of_entries(entries))
        )
        later = predict_image(pi5, opened.image)
        deep = predict_image(pi5, opened.image, depth=64)
    assert later == predict(pi5, of_entries(entries), built.bytes)
    assert later.tokens_per_second == built.tokens_per_second
    assert later.load_seconds == built.load_seconds == built.bytes / 90e6
    cached = kv_bytes(open_source(model).config, "q8_0", 64)
    assert deep.read_bytes_per_token == later.read_bytes_per_token + cached


@pytest.mark.parametrize("kv", ["f32", "f16", "q8_0"])
def test_keys_and_values_are_counted_as_the_engine_keeps_them(kv: str, tiny_gguf: Path) -> None:
    config = replace(open_source(tiny_gguf).config, heads=8, kv_heads=4, head_size=64)
    sizes = []
    for layers in (2, 3):
        shape = engine_config(replace(config, layers=layers))
        sizes.append(session_size(shape, 64, 1, 1, KV_TYPES[kv]))
    assert kv_bytes(replace(config, layers=1), kv, 64) == sizes[1] - sizes[0]


def test_nothing_is_predicted_for_a_board_without_figures() -> None:
    for name in ("pi3", "arm64", "x86-64", "pico", "virt-a76"):
        assert tokens_per_second(board.load(name), 1000) is None
    for name in ("arm64", "x86-64", "pico"):
        assert load_seconds(board.load(name), 1000) is None


# ---- RAM ----


def test_linux_board_keeps_ram_for_its_system(tiny_gguf: Path) -> None:
    config, zero2 = open_source(tiny_gguf).config, board.load("pi-zero2")
    room = Room.of(zero2)
    assert room.ram == 512 << 20 and room.system == 192 << 20
    small = memory_plan(config, zero2, 16, "q8_0", 0)
    rest = room.ram - room.system - small.resident_bytes
    assert room.lacks(memory_plan(config, zero2, 16, "q8_0", rest)) is None
    assert "less 192.0 MiB for its system" in str(
        room.lacks(memory_plan(config, zero2, 16, "q8_0", rest + 1))
    )


def test_profile_of_a_host_keeps_no_ram_for_a_system() -> None:
    assert Room.of(replace(board.load("x86-64"), ram_bytes=1 << 30)).system == 0
