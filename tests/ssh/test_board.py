"""A board by ssh as a whole: asked what it is, its runtime put there, its agent run; in a home
that may be named anything, behind login shells that print. The server is a real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ssh.server import Server
from ssh.shells import NAMES
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.errors import UsageError, WriteError
from qedge.runtime.model import Model
from qedge.toolkit.board import Board, Linux, load
from qedge.toolkit.device import flash, remote
from qedge.toolkit.device.connected import look
from qedge.toolkit.device.reach import reach
from qedge.toolkit.linux import board as linux
from qedge.toolkit.make.build import build


@pytest.fixture(scope="module")
def this_machine() -> Board:
    """A board with Linux that this machine is."""
    import dataclasses
    import platform

    like = load("arm64")
    assert like.linux is not None
    here = dataclasses.replace(
        like.linux, machines=[platform.machine()], wheel=platform.machine(), models=[]
    )
    assert isinstance(here, Linux)
    return dataclasses.replace(like, linux=here)


@pytest.fixture(scope="module")
def image(this_machine: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    config = TinyConfig()
    write_gguf(folder / "tiny.gguf", config, make_weights(1, config))
    return build(folder / "tiny.gguf", load("arm64"), folder / "tiny.qimg").image


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache in which a wheel is built once."""
    return str(tmp_path_factory.mktemp("wheels"))


ALL = b"/".join(NAMES)


@pytest.mark.parametrize("name", [ALL + b"/end\n", ALL + b"/caf\xe9", b"-rf ."])
def test_an_image_is_put_on_a_board_whose_home_is_named_anything(
    name: bytes,
    this_machine: Board,
    image: Path,
    wheels: str,
    home: Path,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QEDGE_CACHE", wheels)
    server.home = os.path.join(os.fsencode(tmp_path), b"board", name)
    os.makedirs(server.home)
    server.log_in_by("bash", before="echo 'Welcome!'; printf '\\033[1m'")
    for sent in (True, False):
        with reach(this_machine, server.address, str(server.key)) as there:
            done = flash.apply(there.device, flash.plan(there.device, image, this_machine))
            assert done.verified and bool(done.bytes_sent) == sent
            with Model.open(image) as model:
                assert remote.test(there.device) == model.test()
    made = os.listdir(os.path.join(server.home, b".local/share/qedge"))
    assert len([one for one in made if one.startswith(b"runtime-")]) == 1
    assert os.listdir(os.path.join(os.fsencode(tmp_path), b"board")) == [name.split(b"/")[0]]


def test_what_is_missing_here_is_said_before_a_host_is_met(
    this_machine: Board, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise UsageError("a wheel needs ziglang's compiler; pip install ziglang")

    monkeypatch.setattr(linux, "build_wheel", none)
    said: list[str] = []
    with (
        pytest.raises(UsageError, match="pip install ziglang"),
        reach(this_machine, server.address, str(server.key), said.append),
    ):
        pass
    assert not said and not (home / ".local").exists()


def test_a_board_that_cannot_write_its_home_says_so_and_nothing_is_left(
    this_machine: Board,
    wheels: str,
    home: Path,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QEDGE_CACHE", wheels)
    server.home = os.fsencode(tmp_path / "board")
    os.makedirs(server.home)
    (tmp_path / "board/.local").write_text("a file in the way")
    server.log_in_by()
    with (
        pytest.raises(WriteError, match="cannot be written .*nothing was changed"),
        reach(this_machine, server.address, str(server.key)),
    ):
        pass
    assert os.listdir(server.home) == [b".local"]


def test_a_board_that_is_named_is_listed_with_what_it_says_of_itself(
    home: Path, server: Server, tmp_path: Path
) -> None:
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "uname").write_text("#!/bin/sh\necho aarch64\n")
    (fake / "uname").chmod(0o755)
    server.home = os.fsencode(tmp_path / "board")
    os.makedirs(server.home)
    server.log_in_by(before="echo Welcome", path=str(fake))
    (one,) = look([server.address], str(server.key))
    assert one.board == "arm64" and "has no runtime yet" in one.note
    (fake / "uname").write_text("#!/bin/sh\nprintf 'odd\\033[2J'\n")
    (one,) = look([server.address], str(server.key))
    assert not one.board and one.note.isprintable() and r"odd\x1b[2J" in one.note
    server.log_in_by(instead="echo not here; exit 1")
    (one,) = look([server.address], str(server.key))
    assert not one.board and "not here" in one.note
