"""Images and boards for the firmware's tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.toolkit.bare.firmware import FLAGS, defines, engine_flags, folders
from qedge.toolkit.board import Board, device_of, load
from qedge.toolkit.device import flash
from qedge.toolkit.emulators.bare import Emulator
from qedge.toolkit.link import LinkedDevice
from qedge.toolkit.make.build import build

MakeImage = Callable[..., Path]


@pytest.fixture(scope="session")
def make_image(tmp_path_factory: pytest.TempPathFactory) -> MakeImage:
    """make_image("sim", seed=1, quant="q8_0"): the path of a tiny image for a board."""
    folder = tmp_path_factory.mktemp("images")

    def make(board: str, *, seed: int = 1, quant: str = "q8_0", layers: int = 2) -> Path:
        config = TinyConfig(layers=layers)
        model = folder / f"tiny-{seed}-{layers}.gguf"
        if not model.exists():
            write_gguf(model, config, make_weights(seed, config))
        output = folder / f"{board}-{seed}-{layers}-{quant}.qimg"
        return (
            output if output.exists() else build(model, load(board), output, quant=quant).image
        )

    return make


@pytest.fixture(scope="session")
def sim() -> Board:
    return load("sim")


@pytest.fixture
def board(sim: Board, tmp_path: Path) -> Iterator[LinkedDevice]:
    """A fresh board: the firmware as a process."""
    with Emulator(sim, tmp_path / "flash.bin") as emulator:
        device = emulator.connect()
        yield device
        device.close()


def put(device: LinkedDevice, image: Path, board: Board) -> flash.Flashed:
    return flash.apply(device, flash.plan(device, image, board))


def compile_port(
    source: Path | None, output: Path, *flags: str, board: Board | None = None
) -> Path:
    """The firmware with `source` as its port and its main; None: the host port and main.c."""
    sim = board or load("sim")
    firmware, engine = folders()
    rooms = sorted(firmware.glob("*.c"))
    if source is None:
        source = firmware / "ports" / "host" / "port.c"
    else:
        rooms = [path for path in rooms if path.name != "main.c"]
    sources = [source, *rooms, *sorted((engine / "engine").rglob("*.c"))]
    device = device_of(sim)
    command = ["cc", *engine_flags(), *FLAGS, "-O2", *flags, *device.cpu]
    command += defines(sim, device)
    command += [f"-I{firmware}", f"-I{engine}", *map(str, sources), "-o", str(output)]
    subprocess.run(command, check=True)
    return output
