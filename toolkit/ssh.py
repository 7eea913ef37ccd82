"""A board's shell by ssh (asyncssh), as this user's own ssh configuration says: keys, agent,
ports, jump hosts, known hosts. Blocking calls around an event loop in a thread of its own.

A host that is not known yet is taken and remembered, and its fingerprint said (as OpenSSH's
"accept-new"); a host whose key has changed never is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import asyncssh

from qedge.runtime.errors import NoBoardError, UsageError, WriteError, WrongBoardError
from qedge.toolkit.pull import cache_folder

CONNECT_SECONDS = 20.0
KEEPALIVE_SECONDS = 15
_READ_SECONDS = 0.05
_CHUNK_BYTES = 1 << 18
_ADDRESS = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@\s]+)@)?(?P<host>\[[^\]]+\]|[^@:\s]+)(?::(?P<port>\d{1,5}))?"
)
_HOST_KEYS = ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"]
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Address:
    """user@host:port; what is not given is for the user's ssh configuration to say."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """UsageError for anything but [user@]host[:port]."""
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match["port"] or 1) not in range(1, 65536):
            raise UsageError(f"{text}: give a board with Linux as user@host or user@host:port")
        port = int(match["port"]) if match["port"] else None
        return cls(match["host"].strip("[]"), match["user"], port)


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that ran on the board."""

    code: int
    output: bytes
    complaints: str


def known_hosts_file() -> Path:
    """Where hosts that were met the first time are remembered."""
    return cache_folder() / "known_hosts"


def _known_files() -> list[str]:
    files = known_hosts_file(), Path("~/.ssh/known_hosts").expanduser()
    return [str(path) for path in files if path.exists()]


def _real_address(address: Address) -> tuple[str, int]:
    """Host and port as the user's ssh configuration has them."""
    given: dict[str, Any] = {} if address.port is None else {"port": address.port}
    found = asyncssh.SSHClientConnectionOptions(host=address.host, **given)
    return (
        str(found.config.get("Hostname", address.host)),
        int(address.port or found.config.get("Port", 22)),  # type: ignore[call-overload]
    )


def _is_known(files: list[str], host: str, port: int) -> bool:
    for path in files:
        trusted, authorities, revoked, *_ = asyncssh.read_known_hosts(path).match(
            host, "", port
        )
        if any(trusted) or any(authorities) or any(revoked):
            return True
    return False


class Shell:
    """A connection to a board. Use it with `with`."""

    def __init__(self, address: str, identity: str | os.PathLike[str] | None = None) -> None:
        """identity: a file with a private key; unless given, QEDGE_IDENTITY's, and else what
        the user's ssh would take."""
        self.name = address
        self._address = Address.parse(address)
        chosen = identity or os.environ.get("QEDGE_IDENTITY") or None
        if chosen is not None and not os.path.exists(chosen):
            raise UsageError(f"{chosen}: no such identity file; give that of a private key")
        self._identity = None if chosen is None else str(chosen)
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._connection: asyncssh.SSHClientConnection | None = None
        self.new_host: str | None = None  # the fingerprint of a host met the first time

    def __enter__(self) -> Shell:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._connection = self._do(self._connect())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._loop.call_soon_threadsafe(self._connection.close)
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(
                    self._connection.wait_closed(), self._loop
                ).result(2.0)
            self._connection = None
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._thread = None

    def _do(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _connect(self) -> asyncssh.SSHClientConnection:
        options: dict[str, Any] = {
            "keepalive_interval": KEEPALIVE_SECONDS,
            "connect_timeout": CONNECT_SECONDS,
            "login_timeout": CONNECT_SECONDS,
            "password_auth": False,
            "kbdint_auth": False,
        }
        address = self._address
        if address.user is not None:
            options["username"] = address.user
        if address.port is not None:
            options["port"] = address.port
        if self._identity is not None:
            options["client_keys"] = [self._identity]
        known = _known_files()
        try:
            if not _is_known(known, *_real_address(address)):
                await self._meet(options)
                known = _known_files()
            return await asyncssh.connect(address.host, **options, known_hosts=known)
        except asyncssh.HostKeyNotVerifiable as error:
            raise WrongBoardError(
                f"{self.name}: the host's key is not the one that is known for this address "
                f"({error.reason}); if the board was set up anew, remove its line from "
                f"{' or '.join(known)}"
            ) from error
        except asyncssh.PermissionDenied as error:
            raise NoBoardError(
                f"{self.name}: no key that this machine has may log in ({error.reason}); put "
                "one there with `ssh-copy-id`, or give it with --identity"
            ) from error
        except asyncssh.KeyImportError as error:
            raise UsageError(
                f"{self._identity}: not a private key that can be read ({error})"
            ) from error
        except (OSError, asyncssh.Error, TimeoutError, asyncio.TimeoutError) as error:
            reason = str(error) or "no answer"
            raise NoBoardError(
                f"{self.name}: cannot be reached by ssh ({reason}); is it powered, and is this "
                "its address?"
            ) from error

    async def _meet(self, options: dict[str, Any]) -> None:
        """Remembers a host that was never seen."""
        wanted = {name: options[name] for name in ("port",) if name in options}
        key = await asyncssh.get_server_host_key(
            self._address.host, **wanted, server_host_key_algs=_HOST_KEYS
        )
        if key is None:
            return
        host, port = _real_address(self._address)
        path = known_hosts_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="ascii") as file:
            name = host if port == 22 else f"[{host}]:{port}"
            file.write(f"{name} {key.export_public_key().decode().strip()}\n")
        self.new_host = key.get_fingerprint()

    # ---- commands ----

    def run(self, command: str, data: bytes | None = None) -> Ended:
        """Runs a command with data as its input. WriteError when the connection is lost."""
        return self._do(self._run(command, data))

    async def _run(self, command: str, data: bytes | None) -> Ended:
        assert self._connection is not None
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
        assert self._connection is not None
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
