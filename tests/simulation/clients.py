"""What clients do: updates, runs, tests, measurements, rollbacks, and messages that no honest
one would send. Each is a program of a few such acts, drawn from the seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cbor2
from simulation.stage import Client, Stage, World, attempt

from qedge.runtime.agent.frame import encode
from qedge.runtime.errors import QedgeError, WriteError
from qedge.runtime.model import Model
from qedge.toolkit.device import flash, remote
from qedge.toolkit.link import LinkedDevice

PROMPT, TOKENS = b"hello", 3


@dataclass(frozen=True, slots=True)
class Sample:
    """An image, and what it must say."""

    path: Path
    image_id: str
    logits_hash: str

    @classmethod
    def of(cls, path: Path) -> Sample:
        with Model.open(path) as model:
            for _ in model.generate(PROMPT, TOKENS, hash=True):
                pass
            return cls(path, model.image_id, model.logits_hash())


@dataclass(slots=True)
class Actor:
    """One client's program."""

    stage: Stage
    world: World
    samples: list[Sample]
    dice: random.Random
    acts: int
    client: Client | None = None

    def __call__(self) -> None:
        assert self.client is not None
        device: LinkedDevice | None = None
        for _ in range(self.acts):
            if device is None or self.dice.random() < 0.2:
                device = self.stage.device(self.client)
            work = partial(self.dice.choice(ACTS), self, device)
            name = work.func.__name__
            if attempt(self.stage, self.client, name, work) is None:
                device = None

    # ---- acts: each gives something to note, or a QedgeError ----

    def update(self, device: LinkedDevice) -> str:
        sample = self.dice.choice(self.samples)
        plan = flash.plan(device, sample.path, self.world.board)
        done = flash.apply(device, plan)
        assert done.verified and done.image_id == sample.image_id
        return f"{sample.image_id[:8]} {done.bytes_sent}"

    def run(self, device: LinkedDevice) -> str:
        before = device.hello().image_id
        made = remote.Run(device, PROMPT, TOKENS, hash=True)
        for _ in made:
            pass
        self._check_hash(before, device.hello().image_id, made.logits_hash)
        return str(made.logits_hash)[:8]

    def _check_hash(self, before: str | None, after: str | None, found: str | None) -> None:
        """A run's hash is that of an image that was active when it began: the one before or the
        one after, if another became active meanwhile."""
        possible = [s for s in self.samples if s.image_id in (before, after)]
        if before != after:
            possible = self.samples
        if any(self.world.spoilt(sample.image_id) for sample in possible):
            return
        assert found in [sample.logits_hash for sample in possible], "a run of no image"

    def test(self, device: LinkedDevice) -> str:
        return remote.test(device)[:8]

    def bench(self, device: LinkedDevice) -> str:
        remote.bench(device, prompt_tokens=3, decode_tokens=2, depth=1)
        return "done"

    def rollback(self, device: LinkedDevice) -> str:
        return str(remote.rollback(device).image_id)[:8]

    def half_an_update(self, device: LinkedDevice) -> str:
        """A client that is not seen again."""
        plan = flash.plan(device, self.dice.choice(self.samples).path, self.world.board)
        if plan.active or not plan.sent:
            return "nothing"
        block, step = plan.hello.block, plan.write_bytes
        for number in plan.sent[: self.dice.randrange(1, len(plan.sent) + 1)]:
            for at in range(number * block, (number + 1) * block, step):
                device.write(plan.hello.board_id, plan.slot, at, plan.piece(at))
        return "left"

    def begin_and_leave(self, device: LinkedDevice) -> str:
        """Often of an image that is not there."""
        hello = device.hello()
        slot = self.dice.randrange(2)
        image_id = self.dice.choice(self.samples).image_id
        kind = self.dice.choice(["verify", "activate", "activate", "run", "test"])
        values: dict[str, Any] = {"slot": slot, "id": bytes.fromhex(image_id)}
        if kind in ("run", "test"):
            values = {"prompt": PROMPT, "max": 9} if kind == "run" else {}
        last = self.dice.randrange(1, 60)
        for steps, _ in enumerate(device.job(kind, **values)):
            if steps >= last:
                break
        return hello.board

    def write_behind(self, device: LinkedDevice) -> str:
        """An update that is written to while it is verified and tested."""
        plan = flash.plan(device, self.dice.choice(self.samples).path, self.world.board)
        if plan.active:
            return "nothing"
        flash._send(device, plan, lambda *_: None)
        when = self.dice.randrange(30)
        pages = plan.image_bytes // plan.hello.page
        at = self.dice.randrange(pages) * plan.hello.page
        block = at // plan.hello.block * plan.hello.block
        values = {"slot": plan.slot, "id": bytes.fromhex(plan.image_id)}
        for steps, _ in enumerate(device.job("activate", **values)):
            if steps == when:
                junk = self.dice.randbytes(plan.hello.page)
                place = at if plan.hello.parts else block
                device.write(plan.hello.board_id, plan.slot, place, junk)
        return "active"

    def rude(self, device: LinkedDevice) -> str:
        """Messages with a value that is missing, of another type, or out of range."""
        for _ in range(self.dice.randrange(1, 8)):
            line = device._link._line
            packet = self._packet(device.hello().board_id)
            try:
                line.write(encode(packet) if self.world.noisy else packet)
                line.read(1 << 20)
            except OSError as error:
                raise WriteError(f"the line is gone: {error}") from error
        return "said"

    def _packet(self, board_id: str) -> bytes:
        dice = self.dice
        values: dict[str, Any] = {
            "id": dice.choice([bytes.fromhex(board_id), bytes(8), dice.randbytes(32)]),
            "slot": dice.randrange(2),
            "offset": dice.choice([0, 4096, 65536, 1 << 20, 1 << 49]),
            "data": dice.choice([b"", bytes(4096), dice.randbytes(1024)]),
            "from": dice.randrange(2),
            "source": dice.choice([0, 65536, 1 << 40]),
            "first": 0,
            "count": dice.choice([1, 3, 64]),
            "job": dice.choice(["verify", "activate", "test", "run", "bench", "format"]),
            "prompt": PROMPT,
            "max": 2,
            "kind": dice.randrange(12),
        }
        for _ in range(dice.randrange(3)):
            name = dice.choice(list(values))
            values[name] = dice.choice([-1, 7, 1 << 40, None, b"x", "y", [], {}, True])
        if dice.random() < 0.2:
            values.pop(dice.choice(list(values)))
        body = cbor2.dumps(values)
        command = dice.choice([0, 1, 2, 2, 3, 3, 4, 5, 6, 9])
        group = 64 if dice.random() < 0.9 else dice.choice([0, 1, 7])
        head = struct.pack(">BBHHBB", 10, 0, len(body), group, dice.randrange(256), command)
        return head + body


ACTS: list[Callable[[Actor, LinkedDevice], str]] = [
    *[Actor.update] * 4,
    *[Actor.run] * 3,
    *(Actor.test, Actor.bench, Actor.rollback),
    *(Actor.half_an_update, Actor.begin_and_leave, Actor.write_behind, Actor.rude),
]


def finish(world: World, samples: list[Sample], dice: random.Random) -> None:
    """Nothing is stuck: in the end any image can be flashed, is tested, and runs."""
    world.rest()
    stage = Stage(world, dice, calm=True)

    def work() -> None:
        for sample in (dice.choice(samples), dice.choice(samples)):
            device = stage.device(client)
            try:
                plan = flash.plan(device, sample.path, world.board)
            except QedgeError as error:
                raise AssertionError(f"the board is stuck: {error}") from error
            flash.apply(device, plan)
            assert remote.test(device)
            made = remote.Run(device, PROMPT, TOKENS, hash=True)
            assert "".join(made) is not None
            assert made.logits_hash == sample.logits_hash

    client = stage.add(work)
    stage.run()
