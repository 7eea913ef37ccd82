"""Two clients on one board, every message of theirs interleaved, with kills, power cuts and
bits that flip between any two. After each, the active image has every byte that it was made
active with; a run gives the logits of the image that it began with; and nothing is stuck.

    python tests/simulation/test_simulation.py 10000            # so many seeds, of both boards
    python tests/simulation/test_simulation.py 1 linux 4711     # one of them, with its trace
"""

from __future__ import annotations

import random
import sys
import tempfile
import traceback
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
from simulation.clients import Actor, Sample, finish
from simulation.firmware_world import FirmwareWorld
from simulation.linux_world import LinuxWorld
from simulation.stage import Stage
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.toolkit.board import load
from qedge.toolkit.make.build import build

WORLDS = {"linux": (LinuxWorld, "arm64"), "firmware": (FirmwareWorld, "sim")}
SEEDS = 150  # of each board
ACTS = 4


def samples_in(folder: Path, board: str) -> list[Sample]:
    found = []
    for seed in (1, 2, 3):
        config = TinyConfig(layers=1, context=32)
        model = folder / f"{seed}.gguf"
        write_gguf(model, config, make_weights(seed, config))
        output = folder / f"{board}-{seed}.qimg"
        found.append(Sample.of(build(model, load(board), output, context=32).image))
    return found


def play(kind: str, seed: int, samples: list[Sample], folder: Path) -> list[str]:
    """One seed's run; what happened in it."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        world = WORLDS[kind][0](Path(name) / "board", dice)
        try:
            stage = Stage(world, dice)
            for _ in range(2):
                actor = Actor(stage, world, samples, random.Random(dice.random()), ACTS)
                actor.client = stage.add(actor)
            try:
                stage.run()
                stage.trace.append("the end")
                finish(world, samples, dice)
            except BaseException:
                print("\n".join(stage.trace), file=sys.stderr)
                raise
            return stage.trace
        finally:
            if isinstance(world, FirmwareWorld):
                world.close()


@pytest.fixture(scope="module", params=sorted(WORLDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def samples(kind: str, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return samples_in(tmp_path_factory.mktemp("samples"), WORLDS[kind][1])


def test_whatever_comes_between_two_messages_the_board_keeps_its_promises(
    kind: str, samples: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    happened = {"update": 0, "run": 0, "lost": 0, "flips": 0, "power": 0, "kill": 0}
    for seed in range(SEEDS):
        for line in play(kind, seed, samples, tmp_path):
            for word in happened:
                happened[word] += word in line
    with capsys.disabled():
        print(f"\n  {kind}: {SEEDS} seeds, {happened}")
    assert happened["update"] > SEEDS and happened["flips"] > SEEDS / 10
    assert happened["lost"] > SEEDS / 4


def test_a_seed_replays_its_run(kind: str, samples: list[Sample], tmp_path: Path) -> None:
    for seed in (7, 8, 9):
        first = play(kind, seed, samples, tmp_path)
        assert first == play(kind, seed, samples, tmp_path) and len(first) > ACTS


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    kinds = sys.argv[2:3] or sorted(WORLDS)
    start = int(sys.argv[3]) if len(sys.argv) > 3 else SEEDS
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        for kind in kinds:
            samples = samples_in(Path(name), WORLDS[kind][1])
            for seed in range(start, start + count):
                try:
                    trace = play(kind, seed, samples, Path(name))
                    if count == 1:
                        print("\n".join(trace))
                except BaseException:
                    traceback.print_exc()
                    print(f"seed {seed} of {kind} failed", file=sys.stderr)
                    failed += 1
            print(f"{kind}: {count} seeds from {start}, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
