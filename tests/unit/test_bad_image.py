"""No damage of an image goes unseen: at open in what is small, with --verify in the rest."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.image_bytes import (
    GOLDEN,
    PLAN,
    PROVENANCE,
    ROPE,
    VOCAB,
    WEIGHTS,
    parts,
    renew_hashes,
    with_section,
)
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime import BoardTestError, ImageError, Model
from qedge.runtime.image import open_image, verify_image
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build
from qedge.toolkit.make.describe import describe


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small, with leaves of 256 bytes, so that each of a thousand opens is quick."""
    folder = tmp_path_factory.mktemp("bad")
    config = TinyConfig(
        layers=1, dim=32, ffn=32, heads=4, kv_heads=2, vocab_size=288, context=32
    )
    model = write_gguf(folder / "tiny.gguf", config, make_weights(5, config))
    board = replace(load("x86-64"), alignment_bytes=64, leaf_bytes=256)
    return build(model, board, folder / "tiny.qimg", quant="q4_0").image


@pytest.fixture
def damaged(image: Path, tmp_path: Path) -> Path:
    path = tmp_path / "damaged.qimg"
    path.write_bytes(image.read_bytes())
    return path


@contextmanager
def flipped(path: Path, at: int, bit: int = 0) -> Iterator[None]:
    with open(path, "r+b", buffering=0) as file:
        file.seek(at)
        (was,) = file.read(1)
        for value in (was ^ 1 << bit, was):
            file.seek(at)
            file.write(bytes([value]))
            if value != was:
                yield


def test_image_cut_at_any_64th_byte_is_an_image_error(image: Path, damaged: Path) -> None:
    size = image.stat().st_size
    source = random.Random(1)
    cuts = [*range(0, size, 64), *(source.randrange(size) for _ in range(200)), size - 1]
    for cut in sorted(cuts, reverse=True):
        os.truncate(damaged, cut)
        with pytest.raises(ImageError):
            open_image(damaged)


def test_every_byte_before_the_rope_table_is_checked_at_open(
    image: Path, damaged: Path
) -> None:
    found = parts(image.read_bytes())
    vocabulary = found.sections[VOCAB][0]
    source = random.Random(2)
    places = [*range(vocabulary + 512), *source.sample(range(vocabulary, found.checked), 300)]
    for at in places:
        with flipped(damaged, at, at % 8), pytest.raises(ImageError):
            open_image(damaged)
    open_image(damaged)  # whole again


def test_every_byte_of_the_hash_tree_and_its_root_is_checked_at_open(damaged: Path) -> None:
    found = parts(damaged.read_bytes())
    for at in range(found.tree, found.tree + 32 * found.leaves + 32, 7):
        with flipped(damaged, at), pytest.raises(ImageError, match="hash"):
            open_image(damaged)


@pytest.mark.parametrize("section", [ROPE, WEIGHTS])
def test_flipped_rope_or_weight_opens_and_fails_verify(damaged: Path, section: int) -> None:
    found = parts(damaged.read_bytes())
    start, size = found.sections[section]
    behind = -(-found.checked // found.leaf) * found.leaf  # whole leaves are checked at open
    for at in random.Random(3).sample(range(max(start, behind), start + size), 100):
        with flipped(damaged, at):
            opened = open_image(damaged)
            with pytest.raises(ImageError, match="copy it again"):
                verify_image(opened, damaged)
            with pytest.raises(ImageError):
                describe(damaged, verify=True)
    assert verify_image(open_image(damaged), damaged) == found.leaves


def test_bytes_behind_the_image_are_not_its_own(damaged: Path) -> None:
    """Flash and partitions are longer than what is in them: the header says the size."""
    before = open_image(damaged)
    with open(damaged, "ab") as file:
        file.write(b"\xff" * 1000)
    after = open_image(damaged)
    assert (after.id, after.bytes) == (before.id, before.bytes)
    verify_image(after, damaged)


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"QEDGEIMG", b"a text\n" * 100])
def test_file_that_is_no_image_is_an_image_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.qimg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="no.qimg"):
        open_image(path)


def test_gguf_in_place_of_an_image_names_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + bytes(200))
    with pytest.raises(ImageError, match="qedge build"):
        open_image(path)


def test_huge_sparse_file_is_an_image_error(tmp_path: Path) -> None:
    path = tmp_path / "huge.qimg"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(ImageError):
        open_image(path)


def test_directory_and_pipe_are_image_errors_and_nobody_waits(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/null"), tmp_path / "none", pipe / "below"):
        with pytest.raises(ImageError):
            open_image(path)


def test_zero_byte_in_a_path_does_not_open_what_stands_before_it(image: Path) -> None:
    with pytest.raises(ImageError, match="zero byte"):
        Model.open(f"{image}\0.old")


def test_file_without_permission_is_an_image_error(damaged: Path) -> None:
    damaged.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(ImageError, match="Permission denied"):
            open_image(damaged)
    finally:
        os.seteuid(user)


def test_altered_golden_hash_fails_the_test_and_only_that(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "golden.qimg"
    path.write_bytes(with_section(image, GOLDEN, 16, bytes(32)))
    with Model.open(path) as model:
        assert list(model.generate("the", 3)) is not None
        with pytest.raises(BoardTestError, match="expected logits 0000"):
            model.test()


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (4, b"\0\0\0\0"),
        (4, b"\xff\xff\xff\xff"),
        (8, b"\xff\xff\xff\x7f"),
        (48, b"\xff\xff\xff\xff"),  # an id that is none
    ],
)
def test_broken_golden_section_is_an_image_error(
    image: Path, tmp_path: Path, at: int, new: bytes
) -> None:
    path = tmp_path / "golden.qimg"
    path.write_bytes(with_section(image, GOLDEN, at, new))
    with Model.open(path) as model, pytest.raises(ImageError, match="golden"):
        model.test()


def test_plan_that_promises_too_little_is_refused(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.qimg"
    for at, new in ((24, b"\1"), (4, b"\0\0\0\0"), (8, b"\1\2"), (12, b"\x41"), (16, b"\2")):
        path.write_bytes(with_section(image, PLAN, at, new))
        with pytest.raises(ImageError):
            open_image(path)


def test_unknown_version_is_refused_by_name(image: Path, tmp_path: Path) -> None:
    data = bytearray(image.read_bytes())
    data[8] = 3
    path = tmp_path / "later.qimg"
    path.write_bytes(renew_hashes(data))
    with pytest.raises(ImageError, match="version"):
        open_image(path)


@pytest.mark.parametrize("text", [b"not json", b"[" * 200, b"\xff\xfe", b"[1]"])
def test_provenance_that_is_no_json_object_does_not_stop_an_image(
    image: Path, tmp_path: Path, text: bytes
) -> None:
    path = tmp_path / "odd.qimg"
    size = parts(image.read_bytes()).sections[PROVENANCE][1]
    path.write_bytes(with_section(image, PROVENANCE, 0, text.ljust(size)))
    with Model.open(path) as model:
        assert model.provenance == {} == describe(path)["provenance"]
