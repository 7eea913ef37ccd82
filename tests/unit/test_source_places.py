"""Where a model is found: in the parts of a split GGUF, in the cache of the hub, in a folder;
and what is said when a path is a pipe, or cannot be read."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
from pathlib import Path

import gguf
import pytest
from support.source_damage import TINY, WEIGHTS, open_and_read_everything, refused, same_weights
from support.tiny_models import make_weights, write_gguf, write_hf

from qedge.runtime import BudgetError, ImageError, Model, UsageError
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build
from qedge.toolkit.make.encode import open_vocabulary
from qedge.toolkit.source.opening import open_source

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 9\n"
)
REVISION = "0123456789abcdef" * 2 + "01234567"


# ---- split GGUFs ----


def split(
    path: Path, count: int = 3, *, first_empty: bool = False, seed: int = 1
) -> list[Path]:
    """The parts of a tiny model, as llama-gguf-split makes them."""
    whole = write_gguf(path.with_suffix(".whole"), TINY, make_weights(seed, TINY))
    reader = gguf.GGUFReader(whole)
    tensors = list(reader.tensors)
    shares = [tensors[at :: count - first_empty] for at in range(count - first_empty)]
    shares = [[], *shares] if first_empty else shares
    parts = []
    for number, share in enumerate(shares):
        name = path.with_name(f"{path.name}-{number + 1:05d}-of-{count:05d}.gguf")
        writer = gguf.GGUFWriter(name, "llama")
        if number:
            del writer.kv_data[0]["general.architecture"]
        else:
            copy_fields(reader, writer)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(tensors))
        for tensor in share:
            writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        parts.append(name)
    whole.unlink()
    return parts


def copy_fields(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", "general.")):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, inner)


@pytest.mark.parametrize("first_empty", [False, True])
def test_a_split_gguf_is_read_by_any_of_its_parts(tmp_path: Path, first_empty: bool) -> None:
    parts = split(tmp_path / "tiny", first_empty=first_empty)
    found = [open_source(part) for part in parts]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part.read_bytes()).digest())
    for model in found:
        assert same_weights(model) and model.config == found[0].config
        assert model.config.name == "tiny"
        assert model.files == tuple(parts)
        assert model.sha256() == digest.hexdigest()
    built = build(parts[2], load("host"), tmp_path / "m.qimg", quant="f32")
    with Model.open(built.image) as image:
        assert image.test()


def test_a_split_gguf_tokenizes_by_any_of_its_parts(tmp_path: Path) -> None:
    parts = split(tmp_path / "tiny")
    found = [open_vocabulary(part).encode(b"the rain") for part in parts]
    assert found[0] == found[1] == found[2] != []


def test_a_folder_with_one_split_gguf_is_that_model(tmp_path: Path) -> None:
    split(tmp_path / "tiny")
    assert same_weights(open_source(tmp_path))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    parts = split(tmp_path / "tiny", 4)
    parts[2].unlink()
    for part in (parts[0], parts[1], parts[3], tmp_path):
        refused(part, "tiny-00003-of-00004.gguf is missing")
    parts[3].unlink()
    refused(parts[1], "tiny-00003-of-00004.gguf, tiny-00004-of-00004.gguf are missing")
    parts[0].unlink()
    refused(parts[1], "is part 2 of 4; download the others into")


@pytest.mark.parametrize(
    "name", ["model.gguf", "tiny-00001-of-00002.gguf", "tiny-00002-of-00003.gguf"]
)
def test_a_part_whose_name_does_not_say_so_is_named(tmp_path: Path, name: str) -> None:
    part = split(tmp_path / "tiny")[0]
    (tmp_path / "other").mkdir()
    renamed = part.rename(tmp_path / "other" / name)
    refused(renamed, "is part 1 of 3 of a split GGUF, and its name does not say so")


def test_parts_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    parts = split(tmp_path / "tiny")
    parts[1].rename(tmp_path / "x")
    parts[2].rename(parts[1])
    (tmp_path / "x").rename(parts[2])
    refused(parts[0], "is not part 2 of 3 by what it holds")


def test_parts_of_another_model_are_refused(tmp_path: Path) -> None:
    parts = split(tmp_path / "tiny")
    (tmp_path / "other").mkdir()
    others = split(tmp_path / "other" / "tiny", first_empty=True)
    shutil.copyfile(others[1], parts[1])
    refused(parts[0], "different models")
    (tmp_path / "more").mkdir()
    shutil.copyfile(split(tmp_path / "more" / "tiny", 4)[1], parts[1])
    refused(parts[0], "is not part 2 of 3 by what it holds")
    write_gguf(parts[1], TINY, WEIGHTS)
    refused(parts[0], "is not part 2 of 3 by what it holds")


@pytest.mark.parametrize("name", ["x-00000-of-00002.gguf", "x-00003-of-00002.gguf"])
def test_impossible_numbers_of_a_part_are_refused(tmp_path: Path, name: str) -> None:
    extra = {"split.count": 2, "split.no": 0}
    refused(
        write_gguf(tmp_path / name, TINY, WEIGHTS, extra=extra), "is not part of a split GGUF"
    )


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    parts = split(tmp_path / "tiny")
    whole = parts[1].read_bytes()
    for content, message in (
        (whole[:-9], "cut short"),
        (b"", "the file is empty"),
        (POINTER, "Git LFS pointer"),
        (b"GGUX" + whole[4:], "no GGUF file"),
    ):
        parts[1].write_bytes(content)
        refused(parts[0], f"{parts[1]}: ")
        refused(parts[0], message)


def test_pieces_that_were_cut_by_another_program_are_to_be_joined(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS)
    for end in (".part1of2", "-split-a", ".part-aa"):
        piece = tmp_path / f"m.gguf{end}"
        piece.write_bytes(path.read_bytes()[:3000])
        refused(piece, "is a piece of a GGUF that was cut; join all pieces")


# ---- the hub's cache, and folders around a model ----


def hub_cache(root: Path, name: str = "models--acme--tiny") -> Path:
    """A cache as huggingface_hub makes it: blobs, links to them, refs/main."""
    plain = write_hf(root / "plain", TINY, WEIGHTS)
    repository = root / "hub" / name
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for file in plain.iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    plain.rmdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    return repository


def test_a_repository_of_the_hubs_cache_is_its_main_snapshot(tmp_path: Path) -> None:
    repository = hub_cache(tmp_path)
    older = repository / "snapshots" / ("f" * 40)
    older.mkdir()
    (older / "config.json").write_text("{}")
    snapshots = repository / "snapshots"
    inner = (snapshots, repository / "blobs", repository / "refs", snapshots / REVISION)
    for given in (repository, *inner):
        model = open_source(given)
        assert same_weights(model) and model.config.name == "tiny"
    (repository / "refs" / "main").unlink()
    refused(repository, "holds 2 models; give one")
    shutil.rmtree(older)
    for given in (repository, repository / "snapshots", tmp_path / "hub", tmp_path):
        assert same_weights(open_source(given))


def test_a_cache_of_several_models_names_them(tmp_path: Path) -> None:
    repository = hub_cache(tmp_path)
    (tmp_path / "hub" / "models--acme--other" / "snapshots").mkdir(parents=True)
    for given in (tmp_path / "hub", tmp_path):
        refused(given, f"holds 2 models; give one: {tmp_path / 'hub' / 'models--acme--other'}")
    refused(tmp_path / "hub" / "models--acme--other", "hf download acme/other")
    assert same_weights(open_source(repository))


def test_a_repository_of_data_is_no_model(tmp_path: Path) -> None:
    repository = hub_cache(tmp_path, "datasets--acme--texts")
    refused(repository, "is a dataset of the hub, and no model")


def test_a_repository_with_one_gguf_is_that(tmp_path: Path) -> None:
    repository = tmp_path / "models--acme--tiny-GGUF"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    write_gguf(snapshot / "tiny.gguf", TINY, WEIGHTS)
    (snapshot / "README.md").write_text("a model")
    assert same_weights(open_source(repository))


def test_a_folder_with_one_gguf_is_that_and_several_are_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", TINY, WEIGHTS)
    (tmp_path / "mmproj-tiny.gguf").write_bytes(b"")
    assert same_weights(open_source(tmp_path))
    shutil.copyfile(tmp_path / "tiny.gguf", tmp_path / "more.gguf")
    refused(tmp_path, f"give one: {tmp_path / 'more.gguf'}, {tmp_path / 'tiny.gguf'}")


def test_a_config_beside_a_gguf_does_not_hide_it(tmp_path: Path) -> None:
    """Repositories of GGUFs often hold a config.json of two lines."""
    write_gguf(tmp_path / "tiny.gguf", TINY, WEIGHTS)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert same_weights(open_source(tmp_path))
    write_hf(tmp_path, TINY, make_weights(2, TINY))
    assert same_weights(open_source(tmp_path), make_weights(2, TINY))


def test_an_output_is_never_a_file_of_the_model(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS, shards=2)
    part = split(tmp_path / "tiny")[1]
    for model, output in (
        (folder, folder / "model-00002-of-00002.safetensors"),
        (folder, folder / "tokenizer.json"),
        (tmp_path / "tiny-00001-of-00003.gguf", part),
    ):
        before = output.read_bytes()
        with pytest.raises(UsageError, match="is a file of the model; name another output"):
            build(model, load("host"), output)
        assert output.read_bytes() == before


def test_a_pipe_a_socket_and_a_device_are_said_as_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is a pipe; a model's file is read at many places")
    refused(Path("/dev/zero"), "is a character device")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        refused(tmp_path / "s", "is a socket")
    reading, writing = os.pipe()
    try:
        refused(Path(f"/dev/fd/{reading}"), "is a pipe")
    finally:
        os.close(reading)
        os.close(writing)
    (tmp_path / "link").symlink_to("nowhere")
    refused(tmp_path / "link", "a link to what is not there")
    (tmp_path / "circle").symlink_to("circle")
    refused(tmp_path / "circle", "links lead in a circle")


def test_a_descriptor_of_a_regular_file_is_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS)
    with path.open("rb") as file:
        assert same_weights(open_source(Path(f"/dev/fd/{file.fileno()}")))


# ---- what the system says ----


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.EACCES, ImageError, "Permission denied; its permissions do not let you read it"),
        (errno.EIO, ImageError, "the disk fails, copy it from elsewhere"),
        (errno.ESTALE, ImageError, "the network disk has lost it"),
        (errno.ENOMEM, BudgetError, "this machine gives no more"),
        (errno.EMFILE, BudgetError, "Too many open files"),
    ],
)
def test_an_errno_is_told_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type, said: str
) -> None:
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS)
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("open", "pread", "listdir", "stat"):
        with monkeypatch.context() as patched, pytest.raises(kind, match=said) as told:
            patched.setattr(f"qedge.toolkit.source.opened.os.{name}", refuse)
            open_and_read_everything(folder if name == "listdir" else path)
        assert str(tmp_path) in str(told.value)
