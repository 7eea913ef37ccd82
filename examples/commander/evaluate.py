"""How many held-out commands an image answers exactly, by qedge's own engine.

    python examples/commander/evaluate.py [--count 2000]

Builds commander in f32, q8_0 and q4_0 for this machine and runs every sentence greedily.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from grammar import examples

from qedge.runtime import Model
from qedge.toolkit.board import load
from qedge.toolkit.build import build
from qedge.toolkit.demo import commander


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--quants", default="f32,q8_0,q4_0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for quant in options.quants.split(","):
            image = Path(folder) / f"{quant}.qimg"
            built = build(commander(), load("host"), image, quant=quant)
            with Model.open(image) as model:
                right = sum(
                    "".join(model.generate(f"{sentence}\n", 60)) == answer
                    for sentence, answer in examples("held-out", options.count, 1)
                )
            share = right / options.count
            print(f"{quant}: {share:.2%} of {options.count}, image {built.bytes:,} bytes")


if __name__ == "__main__":
    main()
