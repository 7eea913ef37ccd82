"""The demonstrations: a real model on this machine, and our own one on a board."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qedge.toolkit.board import device_of, load
from qedge.toolkit.device import flash, remote
from qedge.toolkit.emulators.bare import Emulator
from qedge.toolkit.fetch.pull import pull
from qedge.toolkit.files import cache_folder, private_folder
from qedge.toolkit.make.build import Built, Progress, build
from qedge.toolkit.source.locate import commander

MODEL, QUANT, CONTEXT = "smollm2-135m", "q8_0", 2048  # QUANT: of commander, on a board
COMMAND = "turn off the lamp in the kitchen please"


def prepare(progress: Progress | None = None) -> Built:
    """Fetches the model (once) and builds its image into the cache."""
    fetched = pull(
        MODEL, progress=(lambda done, of: progress("fetch", done, of)) if progress else None
    )
    folder = private_folder(cache_folder() / "images")
    output: Path = folder / f"{MODEL}.qimg"
    return build(
        fetched.path, load("host"), output, context=CONTEXT, at_once=True, progress=progress
    )


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the demonstration on a board: what it is, and what it found."""

    title: str
    found: dict[str, Any]


def on_board(
    name: str,
    command: str = COMMAND,
    *,
    quant: str = QUANT,
    flash_file: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[Step]:
    """Builds commander for a board, starts it emulated, flashes, tests, and gives it a
    command; yields each step as it is done."""
    board = load(name)
    device_of(board)  # before a minute's work
    with tempfile.TemporaryDirectory() as folder:
        built = build(commander(), board, Path(folder) / "commander.qimg", quant=quant)
        yield Step(
            "build",
            {
                "model": "commander",
                "quant": built.quant,
                "bytes": built.bytes,
                "context": built.plan.context,
                "arena_bytes": built.plan.arena_bytes,
                "image_id": built.image_id,
            },
        )
        began = time.monotonic()
        with Emulator(board, flash_file or Path(folder) / "flash.bin") as emulator:
            hello = emulator.hello()
            yield Step(
                "start",
                {
                    "board": name,
                    "board_id": hello.board_id,
                    "port": emulator.port,
                    "kernels": hello.kernels,
                    "emulated": hello.emulated,
                    "seconds": round(time.monotonic() - began, 2),
                },
            )
            device = emulator.connect()
            try:
                done = flash.apply(device, flash.plan(device, built.image, board), progress)
                yield Step(
                    "flash",
                    {
                        "slot": done.slot,
                        "bytes_sent": done.bytes_sent,
                        "verified": done.verified,
                        "seconds": round(done.seconds, 2),
                    },
                )
                yield Step("golden test", {"logits_hash": remote.test(device)})
                run = remote.Run(device, f"{command}\n", 60)
                text = "".join(run)
                yield Step(
                    "run",
                    {
                        "command": command,
                        "answer": text,
                        **run.times.fields(hello, board),
                        "stack_used_bytes": device.hello().stack_used,
                    },
                )
            finally:
                device.close()
