"""A board's shell by ssh (asyncssh): blocking calls around an event loop in its own thread.
What a board sends is limited, in bytes and in time: it may be any machine, in any state.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import asyncssh

from qedge.runtime.errors import NoBoardError, UsageError, WriteError
from qedge.runtime.text import printable
from qedge.toolkit.linux.shell import Call, call
from qedge.toolkit.linux.ssh_connect import Address, Way

START_SECONDS = 60.0  # until a script says that it is there: an emulated shell starts slowly
RUN_SECONDS = 120.0
MOST_BYTES = 1 << 20  # of what a script prints, or a login shell before it
_READ_SECONDS = 0.05
_CHUNK_BYTES = 1 << 18
_TAIL_BYTES = 4096  # of complaints
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that ran on the board."""

    code: int
    output: bytes
    complaints: str  # the last of them, fit for a terminal


class NotStarted(NoBoardError):
    """The login on the board ended before a script had begun. said: what came instead."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(
            f"{name}: the login on the board ends without running a command "
            f"({said or 'it says nothing'}); the user needs a shell there, such as /bin/sh"
        )
        self.said = said


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
        if chosen is not None:
            try:
                open(chosen, "rb").close()
            except (OSError, ValueError) as error:
                reason = "no such identity file"
                if not isinstance(error, FileNotFoundError):
                    reason = getattr(error, "strerror", None) or str(error)
                raise UsageError(
                    f"{printable(str(chosen))}: {reason}; give that of a private key"
                ) from error
        self._identity = None if chosen is None else str(chosen)
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._say = say
        self._said: set[str] = set()
        self._way = Way(self._met, self._once)

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
        self._say(f"{self.name}: first connection to this host; its key is {host}")

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._thread is not None:
            with contextlib.suppress(Exception):
                self._do(self._end(), 10.0)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._thread = None

    async def _end(self) -> None:
        """Closes all, so that the loop ends with nothing under way."""
        await self._way.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _do(self, work: Coroutine[Any, Any, _Result], seconds: float | None = None) -> _Result:
        """TimeoutError after so many seconds."""
        limited = asyncio.wait_for(work, seconds)
        try:
            return asyncio.run_coroutine_threadsafe(limited, self._loop).result()
        except asyncio.TimeoutError:
            raise TimeoutError("no answer") from None

    @property
    def _connection(self) -> asyncssh.SSHClientConnection:
        assert self._way.end is not None
        return self._way.end

    # ---- scripts ----

    def run(
        self,
        text: str,
        data: bytes | None = None,
        words: Sequence[str] = (),
        *,
        user: str = "",
        seconds: float = RUN_SECONDS,
    ) -> Ended:
        """Runs a script of sh with data as its input; words and user as of `shell.call`.
        WriteError when the connection is lost. NoBoardError when nothing was run (NotStarted),
        when it has not ended in time, or prints more than MOST_BYTES."""
        wanted = call(text, *words, user=user)
        try:
            return self._do(self._run(wanted, data or b""), seconds)
        except TimeoutError:
            raise NoBoardError(
                f"{self.name}: what was run there has not ended after {seconds:.0f} s; is the "
                "board busy, or a disk of it not answering?"
            ) from None

    async def _run(self, wanted: Call, data: bytes) -> Ended:
        streams = _Streams(self.name)
        try:
            output = bytearray(await streams.start(self._connection, wanted))
            feeding = asyncio.create_task(streams.feed(data))
            try:
                while more := await streams.process.stdout.read(_CHUNK_BYTES):
                    output += more
                    if len(output) > MOST_BYTES:
                        raise NoBoardError(
                            f"{self.name}: prints more than {MOST_BYTES:,} bytes, where a few "
                            "lines were expected; look at its login scripts"
                        )
                await streams.process.wait_closed()
            finally:
                feeding.cancel()
            status = streams.process.exit_status
            if status is None or (status < 0 and self._connection.is_closed()):
                raise self._lost(None)
            return Ended(status, bytes(output), await streams.complaints())
        except (OSError, asyncssh.Error) as error:
            raise self._lost(error) from error
        finally:
            streams.close()

    def _lost(self, error: Exception | None) -> WriteError:
        return WriteError(
            f"{self.name}: the connection was lost ({printable(str(error or 'closed'))}); what "
            "is active on the board stays so: run this again"
        )

    def line(self, text: str, words: Sequence[str] = (), *, user: str = "") -> ShellLine:
        """A script's standard streams, once it is there, as a line for the link. Errors as of
        `run`."""
        return ShellLine(self, *self._do(self._line(call(text, *words, user=user))))

    async def _line(self, wanted: Call) -> tuple[_Streams, bytes]:
        streams = _Streams(self.name)
        try:
            return streams, await streams.start(self._connection, wanted)
        except (OSError, asyncssh.Error) as error:
            streams.close()
            raise self._lost(error) from error
        except BaseException:
            streams.close()
            raise


class _Streams:
    """A script's standard streams. For the event loop only."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.process: Any = None
        self._tail = b""
        self._complaining: asyncio.Task[None] | None = None

    async def start(self, connection: asyncssh.SSHClientConnection, wanted: Call) -> bytes:
        """Starts it, and passes over what the login shell prints before; what came after."""
        try:
            return await asyncio.wait_for(self._start(connection, wanted), START_SECONDS)
        except (asyncio.TimeoutError, TimeoutError):
            raise NoBoardError(
                f"{self._name}: no command is run there within {START_SECONDS:.0f} s; does a "
                "login script of the board wait for something?"
            ) from None

    async def _start(self, connection: asyncssh.SSHClientConnection, wanted: Call) -> bytes:
        self.process = await connection.create_process(wanted.command, encoding=None)
        self._complaining = asyncio.create_task(self._complain())
        came = bytearray()
        while (at := came.find(wanted.marker)) < 0:
            more = await self.process.stdout.read(_CHUNK_BYTES)
            came += more
            if not more:
                said = printable(bytes(came[:500]).decode("utf-8", "replace").strip())
                complaints = await self.complaints()
                raise NotStarted(self._name, "; ".join(filter(None, (said, complaints))))
            if len(came) > MOST_BYTES:
                raise NoBoardError(
                    f"{self._name}: its login prints more than {MOST_BYTES:,} bytes and runs "
                    "no command; look at its login scripts"
                )
        self.process.stdin.write(wanted.head)
        return bytes(came[at + len(wanted.marker) :])

    async def feed(self, data: bytes) -> None:
        """Its input, and the input's end. What it does not take, it does not need."""
        with contextlib.suppress(OSError, asyncssh.Error):
            for at in range(0, len(data), _CHUNK_BYTES):
                self.process.stdin.write(data[at : at + _CHUNK_BYTES])
                await self.process.stdin.drain()
            self.process.stdin.write_eof()

    async def _complain(self) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            while data := await self.process.stderr.read(_CHUNK_BYTES):
                self._tail = (self._tail + data)[-_TAIL_BYTES:]

    async def complaints(self) -> str:
        """What came on standard error last, once that has ended, or a moment later."""
        if self._complaining is not None:
            await asyncio.wait({self._complaining}, timeout=1.0)
        return printable(self._tail.decode("utf-8", "replace").strip(), keep="\n")

    def close(self) -> None:
        if self._complaining is not None:
            self._complaining.cancel()
        if self.process is not None:
            self.process.close()


class ShellLine:
    """What the link needs of a line (toolkit/link/client.py), over a script's streams."""

    def __init__(self, shell: Shell, streams: _Streams, came: bytes) -> None:
        self._shell, self._streams = shell, streams
        self._came = bytearray(came)
        self._news = threading.Condition()
        self._ended = False
        asyncio.run_coroutine_threadsafe(self._listen(), shell._loop)

    async def _listen(self) -> None:
        try:
            while data := await self._streams.process.stdout.read(_CHUNK_BYTES):
                with self._news:
                    self._came += data
                    self._news.notify()
                while len(self._came) > MOST_BYTES:  # the board waits until it is taken
                    await asyncio.sleep(0.01)
        except (OSError, asyncssh.Error):
            pass
        finally:
            with self._news:
                self._ended = True
                self._news.notify()

    @property
    def in_waiting(self) -> int:
        return len(self._came)

    def read(self, size: int = 1) -> bytes:
        """Up to size bytes, as soon as there are any; none after a twentieth of a second.
        OSError when the script has ended."""
        with self._news:
            if not self._came and not self._ended:
                self._news.wait(_READ_SECONDS)
            if self._came:
                data = bytes(self._came[:size])
                del self._came[:size]
                return data
            if not self._ended:
                return b""
        said = ""
        with contextlib.suppress(Exception):
            said = self._shell._do(self._streams.complaints(), 2.0)
        raise OSError(f"the agent ended{': ' + said if said else ''}")

    def write(self, data: bytes) -> int:
        if self._ended:
            return len(data)  # `read` tells
        self._shell._do(self._send(data), RUN_SECONDS)
        return len(data)

    async def _send(self, data: bytes) -> None:
        try:
            self._streams.process.stdin.write(data)
            await self._streams.process.stdin.drain()
        except (OSError, asyncssh.Error) as error:
            raise OSError(str(error) or "closed") from error

    def close(self) -> None:
        """Ends the script's input, and waits a moment for its end."""
        loop = self._shell._loop
        with contextlib.suppress(Exception):
            loop.call_soon_threadsafe(self._streams.process.stdin.write_eof)
            ends = time.monotonic() + 2.0
            with self._news:
                while not self._ended and time.monotonic() < ends:
                    self._news.wait(0.1)
            loop.call_soon_threadsafe(self._streams.close)
