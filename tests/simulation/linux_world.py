"""A board with Linux: its folder, and an agent for each client, as a process each would be. A
kill may come between any two changes of the disk that an agent makes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from simulation.stage import Rates, named_id

from qedge.runtime._engine import EngineError, Image
from qedge.runtime.agent.answers import Agent
from qedge.runtime.agent.frame import StreamDecoder
from qedge.toolkit.board import Board, load

CHANGES = ("replace", "unlink", "pwrite", "fsync", "open", "truncate", "rename", "link")


class Killed(BaseException):
    """The process has ended here."""


class LinuxWorld:
    """See stage.World."""

    noisy = False

    def __init__(self, root: Path, dice: random.Random) -> None:
        """Both clients may have one agent, as on a serial line, or one each."""
        self._shared = dice.random() < 0.4
        self._rate = Rates.of(dice)
        self.board: Board = load("arm64")
        self._root = root
        root.mkdir(mode=0o700)
        (root / "id").write_bytes(b"simulate")
        self._agents: dict[int, tuple[Agent, StreamDecoder]] = {}
        self._left = 0  # changes of the disk until the kill; 0: none comes
        self._flips: dict[int, int] = {}  # by inode, when a bit of it flipped last
        self._ids: dict[int, str] = {}  # by inode, the image that it was
        self._began: dict[int, int] = {}  # by client, when its last job began
        self._named: dict[int, bytes] = {}  # by client, the image that its last job named
        self._last = 0  # who sent the last message
        self._now = 0
        self._seen: tuple[Any, ...] = ()
        self._newest = 0  # sequence number of the records that were active
        self._restarted = False  # an agent began: it may have given the active image up

    # ---- messages ----

    def connect(self, client: int) -> None:
        client = 0 if self._shared else client
        if self._shared and client in self._agents:
            return
        self._end(client)
        self._restarted = True
        with suppress(Killed):  # then its first message finds nobody
            self._agents[client] = self._guarded(
                lambda: (Agent(str(self._root), self.board.name), StreamDecoder())
            )

    def send(self, client: int, data: bytes) -> bytes:
        self._now += 1
        client = 0 if self._shared else client
        self._last = client
        if client not in self._agents:
            raise OSError("the agent ended")
        agent, decoder = self._agents[client]
        out = b""
        for packet in decoder.feed(data):
            if packet[4:6] == bytes([0, 64]) and packet[7] == 4:
                self._began[client] = self._now
                self._named[client] = named_id(packet)
            try:
                out += self._guarded(lambda p=packet: agent.answer(p)) or b""
            except Killed:
                self._end(client)
                raise OSError("the agent was killed") from None
        return out

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """Does something with the disk, and is killed where that was drawn."""
        if not self._left:
            return work()

        def counted(name: str) -> Callable[..., Any]:
            real = getattr(os, name)

            def change(*values: Any, **more: Any) -> Any:
                if self._left:
                    self._left -= 1
                    if not self._left:
                        raise Killed
                return real(*values, **more)

            return change

        patches = [mock.patch.object(os, name, counted(name)) for name in CHANGES]
        for patch in patches:
            patch.start()
        try:
            return work()
        finally:
            for patch in patches:
                patch.stop()

    def _end(self, client: int) -> None:
        """What a process leaves when it ends, however it does: its files are closed."""
        found = self._agents.pop(client, None)
        if found is not None:
            with mock.patch.object(os, "unlink", lambda *_: None):
                found[0].close()

    # ---- what happens ----

    def disturb(self, dice: random.Random) -> str:
        chance = dice.random()
        rate = self._rate
        if chance < rate.end and self._agents:
            client = dice.choice(sorted(self._agents))
            self._end(client)
            return f"agent {client} is killed"
        if chance < rate.end + rate.kill:
            self._left = dice.randrange(1, 30)
            return f"a kill at change {self._left}"
        if chance < rate.end + rate.kill + rate.power:
            for client in sorted(self._agents):
                self._end(client)
            self._left = 0
            return "the power fails"
        if chance < rate.end + rate.kill + rate.power + rate.flip:
            return self._flip(dice)
        return ""

    def _flip(self, dice: random.Random) -> str:
        files = sorted(p for p in self._root.iterdir() if p.suffix not in ("", ".error"))
        files = [p for p in files if p.stat().st_size]
        if not files:
            return ""
        parts = [p for p in files if p.suffix == ".part"]
        path = dice.choice(parts if parts and dice.random() < 0.5 else files)
        at, bit = dice.randrange(path.stat().st_size), dice.randrange(8)
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << bit]))
            self._flips[os.fstat(file.fileno()).st_ino] = self._now
        return f"bit {bit} of byte {at} of {path.name} flips"

    def spoilt(self, image_id: str) -> bool:
        return any(self._ids.get(inode, image_id) == image_id for inode in self._flips)

    def rest(self) -> None:
        self._left = 0
        for client in sorted(self._agents):  # a silent one loses its lock after a minute
            self._end(client)

    # ---- what must hold ----

    def check(self) -> None:
        """The active image, by this world's own reading of the records, has every byte."""
        from qedge.runtime.agent.slots import Slots

        slots = Slots(str(self._root))
        active = slots.active()
        if active is None:
            return
        restarted, self._restarted = self._restarted, False
        path, record = slots.path(active), slots.record(active)
        found = os.stat(path)
        seen = (active, record["sequence"], record["id"], found.st_ino, found.st_mtime_ns)
        if seen == self._seen:
            return
        self._ids[found.st_ino] = record["id"]
        older, self._newest = self._newest, max(self._newest, record["sequence"])
        flipped = self._flips.get(found.st_ino, -1)
        if flipped >= 0 and record["sequence"] <= older:
            self._seen = seen  # damaged, and here again because the newer record is, too
            return
        if flipped >= self._began.get(self._last, 0) or seen[3] == self._inode():
            self._seen = seen  # damaged after it was verified, and not written since
            return
        if self._seen and seen[1] > self._seen[1] and not restarted:
            named = self._named.get(self._last)
            assert named == bytes.fromhex(record["id"]), "an image became active unnamed"
        try:
            image = Image(os.fsencode(path))
            assert image.id.hex() == record["id"], "the record is of another image"
            image.verify(0, 1 << 20)
        except EngineError as error:
            raise AssertionError(f"the active image is damaged: {error}") from error
        self._seen = seen

    def _inode(self) -> int:
        """Of the image that was active at the last check, where a bit of it flipped."""
        inode = self._seen[3] if self._seen else 0
        return inode if inode in self._flips else 0
