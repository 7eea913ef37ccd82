"""The way to a host by ssh (asyncssh), as this user's own ssh configuration says: names, users,
ports, keys, agent, known hosts, jump hosts.

A host that is not known yet is taken and remembered (as OpenSSH's "accept-new"), a jump host
too; a host whose key has changed never is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from qedge.runtime.errors import NoBoardError, UsageError, WrongBoardError
from qedge.toolkit.pull import cache_folder

CONNECT_SECONDS = 20.0
KEEPALIVE_SECONDS = 15
_ADDRESS = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@\s]+)@)?(?P<host>\[[^\]]+\]|[^@:\s]+)(?::(?P<port>\d{1,5}))?"
)
_HOST_KEYS = ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"]
_DEFAULT_FILES = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")  # as ssh_config(5) says

Look = Callable[[str, str, "int | None"], Sequence[Any]]


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


def known_hosts_file() -> Path:
    """Where hosts that were met the first time are remembered."""
    return cache_folder() / "known_hosts"


@dataclass(slots=True)
class Way:
    """Connections to jump hosts, in order, and the one to the board, which is the last."""

    say: Callable[[str], None]  # takes "host fingerprint" of hosts that were never seen
    connections: list[asyncssh.SSHClientConnection] = field(default_factory=list)

    @property
    def end(self) -> asyncssh.SSHClientConnection | None:
        return self.connections[-1] if self.connections else None

    async def open(self, address: Address, identity: str | None, name: str) -> None:
        """To an address. identity: a private key's file, for the last host only; without one,
        what the configuration says. NoBoardError, WrongBoardError, UsageError."""
        try:
            await _hop(self, address, identity, name, frozenset())
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        while self.connections:
            connection = self.connections.pop()
            connection.close()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(connection.wait_closed(), 2.0)


async def _hop(
    way: Way, address: Address, identity: str | None, name: str, behind: frozenset[str]
) -> None:
    """Adds a host to the way, with the jump hosts before it. behind: the hosts that it is the
    way to, which are no jump hosts of their own."""
    options: dict[str, Any] = {
        "keepalive_interval": KEEPALIVE_SECONDS,
        "connect_timeout": CONNECT_SECONDS,
        "login_timeout": CONNECT_SECONDS,
        "password_auth": False,
        "kbdint_auth": False,
    }
    if address.user is not None:
        options["username"] = address.user
    if address.port is not None:
        options["port"] = address.port
    if identity is not None:
        options["client_keys"] = [identity]
        options["ignore_encrypted"] = bool(os.environ.get("SSH_AUTH_SOCK"))  # it may have it
    with _told(name, identity):
        found = await asyncssh.SSHClientConnectionOptions.construct(
            config=(), host=address.host, **options
        )
        behind |= {address.host}
        if way.end is None and isinstance(found.tunnel, str):
            jumps = [Address.parse(one) for one in found.tunnel.split(",")]
            if not any(jump.host in behind for jump in jumps):
                for jump in jumps:
                    hop = f"{name}: its jump host {jump.host}"
                    await _hop(way, jump, None, hop, behind)
        options["tunnel"] = way.end
        look = _known(found.known_hosts)
        if look is not None:
            alias, port = found.host_key_alias or found.host, found.port
            if not any(look(alias, "", None if port == 22 else port)):
                await _meet(way, address, options, alias, port)
                look = _known(found.known_hosts)
        way.connections.append(
            await asyncssh.connect(address.host, **options, known_hosts=look)
        )


@contextlib.contextmanager
def _told(name: str, identity: str | None) -> Iterator[None]:
    """What goes wrong on the way to a host, in our words."""
    try:
        yield
    except asyncssh.HostKeyNotVerifiable as error:
        raise WrongBoardError(
            f"{name}: the host's key is not the one that is known for this address "
            f"({error.reason}); if the board was set up anew, remove its line from "
            f"{known_hosts_file()} or from your own known_hosts"
        ) from error
    except asyncssh.PermissionDenied as error:
        raise NoBoardError(
            f"{name}: no key that this machine has may log in ({error.reason}); put one there "
            "with `ssh-copy-id`, or give it with --identity"
        ) from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        closed = "passphrase" in str(error).lower()
        help = "put it into your ssh agent (ssh-add)" if closed else "give a private key's file"
        raise UsageError(
            f"{identity or name}: no private key that can be read ({error}); {help}"
        ) from error
    except ValueError as error:  # a configuration or known_hosts that makes no sense
        raise UsageError(
            f"{name}: your ssh configuration or known_hosts cannot be read ({error})"
        ) from error
    except (OSError, asyncssh.Error, TimeoutError, asyncio.TimeoutError) as error:
        reason = str(error) or "no answer"
        raise NoBoardError(
            f"{name}: cannot be reached by ssh ({reason}); is it powered, and is this its "
            "address?"
        ) from error


def _known(configured: Any) -> Look | None:
    """Looks a host up in the known_hosts files of the user's configuration, and in ours. None:
    the user's configuration wants no host checked."""
    files = list(configured or ()) if configured != () else []
    if configured is None or files == ["/dev/null"]:
        return None
    paths = [Path(file).expanduser() for file in files or _DEFAULT_FILES]
    there = [str(path) for path in (known_hosts_file(), *paths) if path.exists()]
    table = asyncssh.read_known_hosts(there)

    def look(host: str, address: str, port: int | None) -> Sequence[Any]:
        # what is known of port 22 says nothing about another one: that may be another machine
        return table.match(f"[{host}]:{port}" if port else host, "" if port else address, None)

    return look


async def _meet(
    way: Way, address: Address, options: dict[str, Any], alias: str, port: int
) -> None:
    """Remembers a host that was never seen."""
    wanted = {name: options[name] for name in ("port", "tunnel") if name in options}
    key = await asyncio.wait_for(
        asyncssh.get_server_host_key(address.host, **wanted, server_host_key_algs=_HOST_KEYS),
        CONNECT_SECONDS,
    )
    if key is None:
        return
    path = known_hosts_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    host = alias if port == 22 else f"[{alias}]:{port}"
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{host} {key.export_public_key().decode().strip()}\n")
    way.say(f"{host} {key.get_fingerprint()}")
