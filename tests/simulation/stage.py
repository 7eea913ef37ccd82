"""A stage on which several clients use one board at once, one message at a time: whose turn it
is, what is killed and which bit flips is drawn from a seed, so a seed replays its run exactly.

Clients are the toolkit's own code, each in a thread that runs only while it has the stage. This
knows no kind of board: linux_world.py and firmware_world.py do.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import cbor2

from qedge.runtime.errors import QedgeError
from qedge.toolkit.board import Board
from qedge.toolkit.link import Link, LinkedDevice


@dataclass(frozen=True, slots=True)
class Rates:
    """How often something happens between two messages."""

    end: float  # of a process
    kill: float  # between two changes that it makes
    power: float
    flip: float

    @classmethod
    def of(cls, dice: random.Random) -> Rates:
        """Some runs are calm, some have one kind of trouble, some all."""
        return dice.choice(
            [
                cls(0, 0, 0, 0),
                cls(0.004, 0.02, 0.002, 0),
                cls(0, 0, 0, 0.02),
                cls(0.002, 0.01, 0.001, 0.006),
            ]
        )


def named_id(packet: bytes) -> bytes:
    """The image that a job's message names; empty when it names none."""
    try:
        found = cbor2.loads(packet[8:])
        named = found.get("id") if isinstance(found, dict) else None
    except (cbor2.CBORDecodeError, ValueError):
        return b""
    return named if isinstance(named, bytes) else b""


class World(Protocol):
    """One board and what can happen to it."""

    board: Board
    noisy: bool

    def connect(self, client: int) -> None:
        """A client has a new connection."""

    def send(self, client: int, data: bytes) -> bytes:
        """Delivers a packet; what comes back. OSError when there is nobody any more."""

    def disturb(self, dice: random.Random) -> str:
        """Something happens between two messages; what it was."""

    def rest(self) -> None:
        """What was drawn to happen later does not."""

    def check(self) -> None:
        """AssertionError unless what must hold after each message does."""

    def spoilt(self, image_id: str) -> bool:
        """Whether a bit flipped in any copy of this image that may still be there."""


@dataclass(slots=True)
class Client:
    """A thread that has the stage now and then."""

    number: int
    work: Callable[[], None]
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    over: bool = False
    failure: BaseException | None = None


class Ended(BaseException):
    """The stage is closed: a client that waits for its turn leaves."""


class Stage:
    """Runs clients against a world until all are done."""

    def __init__(self, world: World, dice: random.Random, calm: bool = False) -> None:
        """calm: nothing happens but messages."""
        self._world, self._dice, self._calm = world, dice, calm
        self._back = threading.Semaphore(0)
        self._current: Client | None = None
        self._closed = False
        self.clients: list[Client] = []
        self.trace: list[str] = []

    def add(self, work: Callable[[], None]) -> Client:
        client = Client(len(self.clients), work)
        self.clients.append(client)
        return client

    def run(self) -> None:
        """AssertionError for what must not happen, with the seed's trace behind it."""
        threads = []
        for client in self.clients:
            thread = threading.Thread(target=self._live, args=(client,), daemon=True)
            thread.start()
            threads.append(thread)
        try:
            while waiting := [c for c in self.clients if not c.over]:
                self._current = self._dice.choice(waiting)
                self._current.turn.release()
                self._back.acquire()
                if self._current.failure is not None:
                    raise self._current.failure
                self._world.check()
        finally:
            self._closed = True
            for client in self.clients:
                client.turn.release()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive(), "a client is stuck"

    def _live(self, client: Client) -> None:
        client.turn.acquire()
        try:
            if not self._closed:
                client.work()
        except Ended:
            pass
        except BaseException as error:  # shown by whoever runs the stage
            client.failure = error
        finally:
            client.over = True
            self._back.release()

    def pass_message(self, client: Client, data: bytes) -> bytes:
        """Leaves the stage, and delivers a packet when it is this client's turn again."""
        self._back.release()
        client.turn.acquire()
        if self._closed:
            raise Ended
        if not self._calm:
            happened = self._world.disturb(self._dice)
            if happened:
                self.trace.append(happened)
        try:
            answer = self._world.send(client.number, data)
        except OSError:
            self.trace.append(f"{client.number}: lost")
            raise
        return answer

    def device(self, client: Client) -> LinkedDevice:
        """A new connection of a client's."""
        self._world.connect(client.number)
        line = StageLine(self, client)
        link = Link(
            line,
            f"client {client.number}",
            patience=0.2,
            pause=0.05,
            noisy=self._world.noisy,
            clock=lambda: line.now,
        )
        return LinkedDevice(link, f"client {client.number}")


class StageLine:
    """A client's end of its connection. Time passes for it only while it waits for nothing, so
    a slow machine changes no run."""

    def __init__(self, stage: Stage, client: Client) -> None:
        self._stage, self._client = stage, client
        self._came = bytearray()
        self._lost = False
        self.now = 0.0  # seconds

    @property
    def in_waiting(self) -> int:
        return len(self._came)

    def read(self, size: int = 1) -> bytes:
        if self._lost:
            raise OSError("the connection was lost")
        if not self._came:
            self.now += 0.01
        data = bytes(self._came[:size])
        del self._came[:size]
        return data

    def write(self, data: bytes) -> int:
        if self._lost:
            raise OSError("the connection was lost")
        try:
            self._came += self._stage.pass_message(self._client, data)
        except OSError:
            self._lost = True
            raise
        return len(data)

    def close(self) -> None:
        self._lost = True


def attempt(stage: Stage, client: Client, name: str, work: Callable[[], Any]) -> Any:
    """Does something that may fail for good reasons, all of which are of one family."""
    try:
        found = work()
        stage.trace.append(f"{client.number}: {name} {found}")
        return found
    except QedgeError as error:
        stage.trace.append(f"{client.number}: {name}: {type(error).__name__}")
        return None
