"""Building: one model from three formats, padded vocabularies, recipes, boards."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf, write_hf, write_llama2c

from qedge.runtime import BudgetError, Model, NoBoardError, UsageError
from qedge.toolkit import board
from qedge.toolkit.make.build import build

CONFIG = TinyConfig(ffn=172)


def weights_part(image: Path) -> bytes:
    with Model.open(image) as model:
        return model.image.section(7)


def test_three_formats_of_one_model_give_the_same_weights(tmp_path: Path) -> None:
    weights = make_weights(3, CONFIG)
    write_gguf(tmp_path / "m.gguf", CONFIG, weights, tokenizer="spm")
    write_hf(tmp_path / "hf", CONFIG, weights)
    tokenizer = write_llama2c(tmp_path / "m.bin", CONFIG, weights)
    host, parts = board.load("host"), set()
    for number, (source, extra) in enumerate(
        [(tmp_path / "m.gguf", None), (tmp_path / "hf", None), (tmp_path / "m.bin", tokenizer)]
    ):
        output = tmp_path / f"{number}.qimg"
        parts.add(
            weights_part(build(source, host, output, quant="q8_0", tokenizer=extra).image)
        )
    assert len(parts) == 1


def test_padded_embedding_builds_and_never_shows_its_padding(tmp_path: Path) -> None:
    config = TinyConfig(vocab_size=320)
    folder = tmp_path / "hf"
    write_hf(
        folder,
        replace(config, vocab_size=300),
        make_weights(3, replace(config, vocab_size=300)),
    )
    settings = json.loads((folder / "config.json").read_text())
    write_hf(tmp_path / "wide", config, make_weights(3, config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "wide" / name).write_bytes((folder / name).read_bytes())
    assert settings["vocab_size"] == 300
    image = build(tmp_path / "wide", board.load("host"), tmp_path / "m.qimg").image
    with Model.open(image) as model:
        assert model.config["vocab_size"] == 320
        assert model.detokenize([319], special=True) == b""


def test_q4_0_keeps_embedding_and_output_in_q8_0(tmp_path: Path) -> None:
    config = TinyConfig(tied=False)
    write_gguf(tmp_path / "m.gguf", config, make_weights(3, config))
    image = build(
        tmp_path / "m.gguf", board.load("host"), tmp_path / "m.qimg", quant="q4_0"
    ).image
    with Model.open(image) as model:
        types = {kind: type_ for kind, _, type_, *_ in model.image.tensors()}
    assert types[0] == types[2] == 8
    assert types[4] == types[11] == 2
    assert types[1] == types[3] == types[8] == 0


@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "f16", "f32"])
def test_embedding_type_can_be_chosen(kind: str, tiny_gguf: Path, tmp_path: Path) -> None:
    host = board.load("host")
    built = build(tiny_gguf, host, tmp_path / "m.qimg", quant="q4_0", embedding=kind)
    with Model.open(built.image) as model:
        assert model.test()
        assert {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}[kind] == model.image.tensors()[0][2]


@pytest.mark.parametrize("kv", ["f16", "f32", "q8_0"])
def test_kv_type_is_the_images(kv: str, tiny_gguf: Path, tmp_path: Path) -> None:
    built = build(tiny_gguf, board.load("host"), tmp_path / "m.qimg", quant="q8_0", kv=kv)
    with Model.open(built.image) as model:
        assert model.plan["kv"] == kv == built.plan.kv
        assert model.test()


def test_context_auto_is_the_longest_that_fits(tiny_gguf: Path, tmp_path: Path) -> None:
    roomy = board.load("x86-64")
    assert build(tiny_gguf, roomy, tmp_path / "a.qimg").plan.context == 128
    # RAM for an arena of half the context, and not a byte more than its plan counts
    half = build(tiny_gguf, roomy, tmp_path / "b.qimg", context=64).plan
    tight = replace(roomy, ram_bytes=half.resident_bytes)
    assert build(tiny_gguf, tight, tmp_path / "c.qimg").plan.context == 64
    with pytest.raises(BudgetError, match="try --context 64"):
        build(tiny_gguf, tight, tmp_path / "d.qimg", context=65)
    with pytest.raises(BudgetError, match="smaller quantization or model"):
        build(tiny_gguf, replace(roomy, ram_bytes=1 << 20), tmp_path / "e.qimg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.qimg", "b.qimg", "c.qimg"]


def test_context_beyond_training_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trained for 128"):
        build(tiny_gguf, board.load("host"), tmp_path / "m.qimg", context=129)


@pytest.mark.parametrize("name", board.names())
def test_every_board_file_is_whole(name: str) -> None:
    found = board.load(name)
    assert found.name == name and found.layout_rows in (1, 4, 16)


def test_unknown_key_of_a_board_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean threads"):
        board.parse("x", "thread = 3")


def test_unknown_board_names_the_nearest() -> None:
    with pytest.raises(NoBoardError, match="did you mean x86-64-v4"):
        board.load("x86-64-v2")


def test_running_an_image_imports_no_numpy(tiny_gguf: Path, tmp_path: Path) -> None:
    image = build(tiny_gguf, board.load("host"), tmp_path / "m.qimg").image
    code = (
        "import sys; from qedge.toolkit.cli import cli; "
        f"cli.main(['run', {str(image)!r}, 'a', '-n', '2'], standalone_mode=False); "
        "sys.exit(bool({'numpy', 'asyncio', 'serial'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "f32"])
def test_what_an_image_was_said_to_take_is_what_it_takes_but_for_padding(
    kind: str, tiny_gguf: Path, tmp_path: Path
) -> None:
    for name in ("pico", "x86-64"):
        there = board.load(name)
        built = build(tiny_gguf, there, tmp_path / "m.qimg", quant=kind, context=32)
        spare = built.plan.image_bytes - built.image.stat().st_size
        assert 0 <= spare < 2 * there.alignment_bytes + 512


@pytest.mark.parametrize("kind", ["IQ4_NL", "MXFP4"])
def test_types_with_tables_are_refused_for_boards_without_linux_by_name(
    kind: str, tmp_path: Path
) -> None:
    config, name = TinyConfig(), "blk.0.ffn_up.weight"
    weights = make_weights(3, config)
    rows, columns = weights.pop(name).shape
    block = np.full((rows, columns // 32 * (17 if kind == "MXFP4" else 18)), 0x21, np.uint8)
    model = write_gguf(tmp_path / "m.gguf", config, weights, raw={name: (block, kind)})
    with pytest.raises(UsageError) as refused:
        build(model, board.load("pico"), tmp_path / "m.qimg", quant="keep")
    assert all(word in str(refused.value) for word in (name, kind.lower(), "pico", "--quant q"))
    assert not (tmp_path / "m.qimg").exists()
    assert build(model, board.load("host"), tmp_path / "m.qimg", quant="keep").image.exists()
    pico = build(model, board.load("pico"), tmp_path / "pico.qimg", quant="q8_0")
    assert pico.image.exists()
