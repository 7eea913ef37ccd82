"""Emulated Linux boards for tests: one that runs, and disks to start others from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.shared import made_once, shared_folder
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.toolkit.board import Board, load
from qedge.toolkit.device import flash
from qedge.toolkit.device.reach import Reached, reach
from qedge.toolkit.emulators.linux import LinuxEmulator, missing
from qedge.toolkit.make.build import build

MakeImage = Callable[..., Path]


@pytest.fixture(scope="session")
def linux_board(request: pytest.FixtureRequest) -> Board:
    """virt-a76, or another one by --board."""
    board = load(request.config.getoption("--board") or "virt-a76")
    if need := missing(board):
        if os.environ.get("CI") or os.geteuid() == 0:
            pytest.fail(need, pytrace=False)
        pytest.skip(need)
    return board


@pytest.fixture(scope="session", autouse=True)
def own_known_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hosts that tests meet are no business of this user's, here or in commands that run."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("ssh")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def make_image(tmp_path_factory: pytest.TempPathFactory, linux_board: Board) -> MakeImage:
    """make_image(seed=1): the path of a tiny image for the board."""
    folder = tmp_path_factory.mktemp("images")

    def make(seed: int = 1, board: str | None = None, layers: int = 2) -> Path:
        name = board or linux_board.name
        config = TinyConfig(layers=layers)
        model = folder / f"tiny-{seed}-{layers}.gguf"
        if not model.exists():
            write_gguf(model, config, make_weights(seed, config))
        output = folder / f"{name}-{seed}-{layers}.qimg"
        return output if output.exists() else build(model, load(name), output).image

    return make


def put(there: Reached, image: Path, board: Board) -> flash.Flashed:
    return flash.apply(there.device, flash.plan(there.device, image, board))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A disk with the runtime on it and one image active, from which boards may start."""

    disk: Path
    image: Path


@pytest.fixture(scope="session")
def prepared(
    linux_board: Board, make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    disk = shared_folder(tmp_path_factory, f"prepared-{linux_board.name}") / "disk.ext4"
    image = make_image(1)  # the same bytes in every worker

    def make() -> None:
        part = disk.with_suffix(".part")
        with (
            LinuxEmulator(linux_board, part) as emulator,
            reach(linux_board, emulator.port, str(emulator.identity)) as there,
        ):
            put(there, image, linux_board)
        part.rename(disk)

    return Prepared(made_once(disk, make), image)


@pytest.fixture(scope="session")
def running(
    prepared: Prepared, linux_board: Board, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LinuxEmulator]:
    """A board that runs, on an overlay of the prepared disk."""
    overlay = tmp_path_factory.mktemp("running") / "overlay.qcow2"
    with LinuxEmulator(linux_board, prepared.disk, overlay=overlay) as emulator:
        yield emulator
