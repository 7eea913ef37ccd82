"""A board's shell by ssh (asyncssh): blocking calls around an event loop in its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import asyncssh

from qedge.runtime.errors import UsageError, WriteError
from qedge.toolkit.ssh_connect import Address, Way

_READ_SECONDS = 0.05
_CHUNK_BYTES = 1 << 18
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that ran on the board."""

    code: int
    output: bytes
    complaints: str


class Shell:
    """A connection to a board. Use it with `with`."""

    def __init__(
        self,
        address: str,
        identity: str | os.PathLike[str] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """identity: a file with a private key; unless given, QEDGE_IDENTITY's, and else what
        the user's ssh would take. say: takes the fingerprint of a host that is met for the
        first time."""
        self.name = address
        self._address = Address.parse(address)
        chosen = identity or os.environ.get("QEDGE_IDENTITY") or None
        if chosen is not None and not os.path.exists(chosen):
            raise UsageError(f"{chosen}: no such identity file; give that of a private key")
        self._identity = None if chosen is None else str(chosen)
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._say = say
        self._way = Way(self._met)

    def __enter__(self) -> Shell:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._do(self._way.open(self._address, self._identity, self.name))
        except BaseException:
            self.close()
            raise
        return self

    def _met(self, host: str) -> None:
        self._say(f"{self.name}: met for the first time, with this host key: {host}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._way.connections:
            self._do(self._way.close())
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._thread = None

    def _do(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def _connection(self) -> asyncssh.SSHClientConnection:
        assert self._way.end is not None
        return self._way.end

    # ---- commands ----

    def run(self, command: str, data: bytes | None = None) -> Ended:
        """Runs a command with data as its input. WriteError when the connection is lost."""
        return self._do(self._run(command, data))

    async def _run(self, command: str, data: bytes | None) -> Ended:
        try:
            found = await self._connection.run(command, input=data or b"", encoding=None)
        except (OSError, asyncssh.Error) as error:
            raise self._lost(error) from error
        if found.exit_status is None or (
            found.exit_status < 0 and self._connection.is_closed()
        ):
            raise self._lost(None)
        complaints = bytes(found.stderr or b"").decode("utf-8", "replace").strip()
        return Ended(found.exit_status, bytes(found.stdout or b""), complaints)

    def _lost(self, error: Exception | None) -> WriteError:
        return WriteError(
            f"{self.name}: the connection was lost ({error or 'closed'}); what is active on "
            "the board stays so: run this again"
        )

    def line(self, command: str) -> ShellLine:
        """A command's standard streams as a line for the link."""
        return ShellLine(self, self._do(self._start(command)))

    async def _start(self, command: str) -> Any:
        try:
            return await self._connection.create_process(command, encoding=None)
        except (OSError, asyncssh.Error) as error:
            raise self._lost(error) from error


class ShellLine:
    """What the link needs of a line (toolkit/link/client.py), over a command's streams."""

    def __init__(self, shell: Shell, process: Any) -> None:
        self._shell, self._process = shell, process
        self._came = bytearray()
        self._news = threading.Condition()
        self._ended = False
        self._complaints = b""
        loop = shell._loop
        self._tasks = [
            asyncio.run_coroutine_threadsafe(self._listen(), loop),
            asyncio.run_coroutine_threadsafe(self._complain(), loop),
        ]

    async def _listen(self) -> None:
        try:
            while data := await self._process.stdout.read(_CHUNK_BYTES):
                with self._news:
                    self._came += data
                    self._news.notify()
        except (OSError, asyncssh.Error):
            pass
        finally:
            with self._news:
                self._ended = True
                self._news.notify()

    async def _complain(self) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            while data := await self._process.stderr.read(_CHUNK_BYTES):
                self._complaints = (self._complaints + data)[-4096:]

    @property
    def in_waiting(self) -> int:
        return len(self._came)

    def read(self, size: int = 1) -> bytes:
        """Up to size bytes, as soon as there are any; none after a twentieth of a second.
        OSError when the command has ended."""
        with self._news:
            if not self._came and not self._ended:
                self._news.wait(_READ_SECONDS)
            if self._came:
                data = bytes(self._came[:size])
                del self._came[:size]
                return data
            if not self._ended:
                return b""
        with contextlib.suppress(Exception):
            self._tasks[1].result(1.0)
        said = self._complaints.decode("utf-8", "replace").strip()
        raise OSError(f"the agent ended{': ' + said if said else ''}")

    def write(self, data: bytes) -> int:
        if self._ended:
            return len(data)  # `read` tells
        self._shell._do(self._send(data))
        return len(data)

    async def _send(self, data: bytes) -> None:
        try:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        except (OSError, asyncssh.Error) as error:
            raise OSError(str(error) or "closed") from error

    def close(self) -> None:
        """Ends the command's input, and waits a moment for its end."""
        loop = self._shell._loop
        with contextlib.suppress(Exception):
            loop.call_soon_threadsafe(self._process.stdin.write_eof)
            ends = time.monotonic() + 2.0
            with self._news:
                while not self._ended and time.monotonic() < ends:
                    self._news.wait(0.1)
            loop.call_soon_threadsafe(self._process.close)
