"""How many held-out sentences an image answers exactly, by qedge's own engine.

    python examples/commander/evaluate.py [--count 2000]

Builds commander in f32, q8_0 and q4_0 for this machine and runs every sentence greedily:
commands, those that name no room or no device, and what is no command.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from grammar import examples
from others import ROOMLESS_HELD_OUT, WHOLE_ROOM_HELD_OUT, others

from qedge.runtime import Model
from qedge.toolkit.board import load
from qedge.toolkit.demo import commander
from qedge.toolkit.make.build import build


def held_out(count: int) -> dict[str, Iterator[tuple[str, str]]]:
    """Sentences and answers, of each kind."""
    return {
        "commands": examples("held-out", count, 1),
        "without a room": others("held-out", min(count, ROOMLESS_HELD_OUT), 1, "roomless"),
        "without a device": others(
            "held-out", min(count, WHOLE_ROOM_HELD_OUT), 1, "whole room"
        ),
        "no command": others("held-out", count, 1, "none"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--quants", default="f32,q8_0,q4_0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for quant in options.quants.split(","):
            image = Path(folder) / f"{quant}.qimg"
            built = build(commander(), load("host"), image, quant=quant)
            print(f"{quant}, image {built.bytes:,} bytes")
            with Model.open(image) as model:
                for name, sentences in held_out(options.count).items():
                    right = [
                        "".join(model.generate(f"{sentence}\n", 60)) == answer
                        for sentence, answer in sentences
                    ]
                    share = sum(right) / len(right)
                    print(f"  {name}: {share:.2%} of {len(right):,}", flush=True)


if __name__ == "__main__":
    main()
