"""A model's file that shrinks, is rewritten or replaced while it is read: a sentence and exit
code 6, never a signal, and no image of half of one model and half of another."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf, write_hf, write_llama2c

from qedge.runtime import ImageError
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build
from qedge.toolkit.source import gguf_header
from qedge.toolkit.source.opening import open_source

CONFIG = TinyConfig(layers=2, context=32)
WEIGHTS = make_weights(1, CONFIG)

# Builds in a process of its own, and does something to a file when quantizing has begun.
BUILD = """
import os, sys
from pathlib import Path
from qedge.runtime.errors import QedgeError
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build

done = False
def tell(step, at, of):
    global done
    if step == "quantize" and not done:
        done = True
        {what}

model, changed, output = map(Path, sys.argv[1:4])
try:
    build(model, load("x86-64"), output, quant="q8_0", progress=tell)
except QedgeError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""
CHANGES = [
    ("os.truncate(changed, changed.stat().st_size // 2)", "(became shorter|was written to)"),
    ("os.truncate(changed, 0)", "(became shorter|was written to)"),
    ("changed.open('ab').write(b' ')", "was written to"),
    ("changed.open('r+b').write(changed.read_bytes())", "was written to"),
    ("os.replace(changed.with_name('other'), changed)", "was replaced"),
]


@pytest.fixture(params=["gguf", "model.safetensors", "tokenizer.json", "config.json"])
def given(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """(what is built, the file of it that changes)."""
    if request.param == "gguf":
        path = write_gguf(tmp_path / "m.gguf", CONFIG, WEIGHTS)
        return path, path
    folder = write_hf(tmp_path / "hf", CONFIG, WEIGHTS)
    return folder, folder / request.param


@pytest.mark.parametrize(
    ("what", "said"), CHANGES, ids=["half", "empty", "more", "same", "new"]
)
def test_a_file_that_changes_in_the_middle_of_a_build_is_exit_code_6(
    given: tuple[Path, Path], tmp_path: Path, what: str, said: str
) -> None:
    model, changed = given
    changed.with_name("other").write_bytes(changed.read_bytes())
    output = tmp_path / "m.qimg"
    before = sorted(path.name for path in tmp_path.iterdir())
    ended = subprocess.run(
        [sys.executable, "-c", BUILD.format(what=what), model, changed, output],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 6, (ended.returncode, ended.stderr)
    assert "Traceback" not in ended.stderr
    assert re.search(f"{re.escape(str(changed))}: {said} while it was read; wait", ended.stderr)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "other") == [
        name for name in before if name != "other"
    ]


def test_a_file_that_loses_its_name_is_read_to_its_end(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", CONFIG, WEIGHTS)
    model = open_source(path)
    path.unlink()
    assert all(tensor.read(0, tensor.rows).size for tensor in model.tensors.values())
    model.check_unchanged()
    assert len(model.sha256()) == 64


def test_a_tensor_of_a_file_that_shrank_says_so(tmp_path: Path) -> None:
    tokenizer = write_llama2c(tmp_path / "m.bin", CONFIG, WEIGHTS)
    model = open_source(tmp_path / "m.bin", tokenizer)
    os.truncate(tmp_path / "m.bin", 500)
    for read in (
        lambda: model.tensors["blk.1.ffn_up.weight"].read(0, 4),
        lambda: model.tensors["blk.1.ffn_up.weight"].raw(0, 4),
        model.sha256,
    ):
        with pytest.raises(ImageError, match=r"m\.bin: became shorter while it was read"):
            read()
    with pytest.raises(ImageError, match="was written to while it was read"):
        model.check_unchanged()


def test_a_build_keeps_no_file_open(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", CONFIG, WEIGHTS)
    folder = write_hf(tmp_path / "hf", CONFIG, WEIGHTS, shards=3)
    build(path, load("host"), tmp_path / "m.qimg")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        build(path, load("host"), tmp_path / "m.qimg")
        build(folder, load("host"), tmp_path / "m.qimg")
        with pytest.raises(ImageError):
            open_source(tmp_path / "m.qimg")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("window", [1, 8, 97, 4096])
def test_a_header_of_any_length_is_read_as_it_is_needed(
    tmp_path: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four megabytes are read at first; here a header is many times as long as that."""
    path = write_gguf(tmp_path / "m.gguf", CONFIG, WEIGHTS)
    whole = gguf_header.read_header(path)
    monkeypatch.setattr(gguf_header, "WINDOW_BYTES", window)
    found = gguf_header.read_header(path)
    assert str(found.metadata) == str(whole.metadata)
    assert (found.tensors, found.data_offset) == (whole.tensors, whole.data_offset)
    data = path.read_bytes()
    for length in range(4, whole.data_offset - 64, 311):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError, match="cut short or damaged"):
            gguf_header.read_header(path)
