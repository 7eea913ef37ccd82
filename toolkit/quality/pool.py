"""Pieces worked off: in this process, or by processes of this machine. One that dies costs the
piece that it had, which another one does again."""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from typing import Any

from qedge.runtime import errors
from qedge.runtime.errors import QedgeError, ToolError
from qedge.runtime.machine import cpus
from qedge.toolkit.quality.pieces import Piece, run

ATTEMPTS = 3  # of a piece whose workers die
Done = tuple[int, list[bytes]]  # number of the piece, what run() gives


class Worker:
    """A process of qedge.toolkit.quality.worker."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "qedge.toolkit.quality.worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, job: dict[str, Any]) -> Any:
        """What it answers. EOFError when it died; the QedgeError that it says."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except (BrokenPipeError, ConnectionError):
            line = b""
        if not line.endswith(b"\n"):
            raise EOFError
        told = json.loads(line)
        if "error" in told:
            raise getattr(errors, told["error"], QedgeError)(told["message"])
        return told["found"]

    def close(self) -> None:
        """Ends it, whatever it does."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def asked(job: dict[str, Any]) -> Any:
    """What a process of its own answers to one job. ToolError when it died."""
    worker = Worker()
    try:
        return worker.ask(job)
    except EOFError:
        raise ToolError(
            f"a process that measures ended early (code {worker.process.wait()}; out of "
            "memory?); run this again"
        ) from None
    finally:
        worker.close()


def here(pieces: Sequence[Piece]) -> Generator[Done]:
    """One after the other, in this process."""
    for number, piece in enumerate(pieces):
        yield number, run(piece)


class _Crew:
    """Processes, and a thread for each that gives it pieces."""

    def __init__(self, pieces: Sequence[Piece], count: int) -> None:
        self._pieces, self._threads = pieces, max(1, cpus() // count)
        self._left: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[Done | BaseException] = queue.SimpleQueue()
        for number in range(len(pieces)):
            self._left.put((number, 0))
        self._stopped = threading.Event()
        self.workers: list[Worker | None] = [None] * count
        self._crew = [threading.Thread(target=self._serve, args=(n,)) for n in range(count)]
        for one in self._crew:
            one.start()

    def _serve(self, seat: int) -> None:
        try:
            while not self._stopped.is_set():
                number, tried = self._left.get(timeout=0.05)
                self._one(seat, number, tried)
        except queue.Empty:
            return
        except BaseException as error:
            self.done.put(error)

    def _one(self, seat: int, number: int, tried: int) -> None:
        worker = self.workers[seat] or Worker()
        self.workers[seat] = worker
        job = {"piece": self._pieces[number].fields(), "threads": self._threads}
        while True:
            try:
                found = worker.ask(job)
                break
            except EOFError:
                if self._stopped.is_set():
                    return
                worker.close()
                tried += 1
                if tried == ATTEMPTS:
                    raise ToolError(
                        f"{tried} workers died of one piece of the evaluation (out of "
                        "memory?); give fewer --workers; what was done is not done again"
                    ) from None
                worker = self.workers[seat] = Worker()
        self.done.put((number, [base64.b64decode(one) for one in found]))

    def close(self) -> None:
        self._stopped.set()
        while any(one.is_alive() for one in self._crew):
            for worker in self.workers:  # one may just have been put in a dead one's place
                if worker is not None:
                    worker.process.kill()
            for one in self._crew:
                one.join(0.05)
        for worker in self.workers:
            if worker is not None:
                worker.close()


def by_processes(pieces: Sequence[Piece], count: int) -> Generator[Done]:
    """By `count` processes, which share the CPUs; as they come. ToolError when several died of
    one piece; what a worker says is wrong."""
    crew = _Crew(pieces, max(1, min(count, len(pieces))))
    try:
        for _ in pieces:
            found = crew.done.get()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        crew.close()
