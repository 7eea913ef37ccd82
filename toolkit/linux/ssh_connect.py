"""The way to a host by ssh (asyncssh), as this user's own ssh configuration says: names, users,
ports, keys, agent, known hosts, jump hosts, proxy commands.

A host that is not known yet is taken and remembered (OpenSSH's "accept-new"), a jump host too,
unless the configuration says otherwise; a host whose key has changed is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from qedge.runtime.errors import NoBoardError, UsageError, WriteError, WrongBoardError
from qedge.runtime.text import printable
from qedge.toolkit.linux import known_hosts, ssh_config
from qedge.toolkit.linux.ssh_config import Settings
from qedge.toolkit.linux.ssh_keys import keys_for

CONNECT_SECONDS = 20.0
KEEPALIVE_SECONDS = 15
# A short list: Dropbear, which small boards run, hangs up on a long one.
_HOST_KEYS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")
logging.getLogger("asyncssh").addHandler(logging.NullHandler())  # it quotes servers
_USER = re.compile(r"(?!-)[^\s'\"`;&<>|(){}\x00-\x1f\x7f]+")  # as OpenSSH's client
_HOST = re.compile(r"[\w.][\w.%+-]*")


@dataclass(frozen=True, slots=True)
class Address:
    """user@host:port; what is not given is for the user's ssh configuration to say."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """UsageError for anything but [user@]host[:port]. The user may have an @, the host be
        an IPv6 address, which wants brackets only where a port follows."""
        advice = f"{printable(text)}: give a board with Linux as user@host or user@host:port"
        rest, user = text.removeprefix("ssh://"), None
        if "@" in rest:
            user, _, rest = rest.rpartition("@")
        if match := re.fullmatch(r"\[([^\]]*)\](?::(\d{1,5}))?", rest):
            host, port = match[1], match[2]
            if not _is_ipv6(host) and not _HOST.fullmatch(host):
                raise UsageError(advice)
        elif rest.count(":") > 1:
            host, port = rest, None
            if not _is_ipv6(host):
                raise UsageError(f"{advice}; an IPv6 address with a port is [address]:port")
        else:
            host, colon, number = rest.partition(":")
            port = number if colon else None
            if not _HOST.fullmatch(host):
                raise UsageError(advice)
        if not rest.isprintable() or (user is not None and not _USER.fullmatch(user)):
            raise UsageError(advice)
        if port is not None and not (
            port.isascii() and port.isdigit() and int(port) in range(1, 65536)
        ):
            raise UsageError(advice)
        return cls(host, user, None if port is None else int(port))


def _is_ipv6(text: str) -> bool:
    """Also one with an interface, fe80::1%eth0."""
    address, percent, scope = text.partition("%")
    if percent and not re.fullmatch(r"[\w.-]+", scope):
        return False
    try:
        return ipaddress.ip_address(address).version == 6
    except ValueError:
        return False


def known_hosts_file() -> Path:
    """Where hosts that were met the first time are remembered."""
    return known_hosts.own_file()


@dataclass(slots=True)
class Way:
    """Connections to jump hosts, in order, and the one to the board, which is the last."""

    met: Callable[[str], None]  # takes "host fingerprint" of hosts that were never seen
    say: Callable[[str], None] = lambda text: None  # what was ignored
    connections: list[asyncssh.SSHClientConnection] = field(default_factory=list)
    proxies: list[Proxy] = field(default_factory=list)
    agents: list[Any] = field(default_factory=list)

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
        while self.proxies:
            await self.proxies.pop().close()
        while self.agents:
            agent = self.agents.pop()
            agent.close()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(agent.wait_closed(), 2.0)


class Proxy:
    """A ProxyCommand: a program of the user's whose standard streams are the line."""

    def __init__(self, command: str) -> None:
        self.socket, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        shell = os.environ.get("SHELL") or "/bin/sh"
        with theirs:
            self._process = subprocess.Popen(
                [shell, "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._said,
                start_new_session=True,  # Ctrl-C is for us to pass on
            )

    def said(self) -> str:
        """The last of its complaints."""
        with contextlib.suppress(OSError, ValueError):
            end = self._said.seek(0, os.SEEK_END)
            self._said.seek(max(0, end - 300))
            return printable(self._said.read().decode("utf-8", "replace").strip(), keep="\n")
        return ""

    async def close(self) -> None:
        self.socket.close()
        ends: list[Callable[[], None]] = [self._process.terminate, self._process.kill]
        for end in (None, *ends):
            if end is not None:
                end()
            for _ in range(20):
                if self._process.poll() is not None:
                    break
                await asyncio.sleep(0.05)
        self._said.close()


class _Host(asyncssh.SSHClient):
    """Whether a host is the one that it should be, by what is known and by what the
    configuration wants. unknown, changed: the key that it showed, if it is so."""

    def __init__(self, settings: Settings, known: known_hosts.Known) -> None:
        self.settings, self._known = settings, known
        self.unknown: asyncssh.SSHKey | None = None
        self.changed: asyncssh.SSHKey | None = None

    def algorithms(self) -> list[str] | tuple[()]:
        """Of host keys, the ones of known keys first. Without an authority that is known,
        certificates would be refused where the key alone is taken."""
        if self.settings.config.get("HostKeyAlgorithms"):
            return ()
        keys, authorities, _ = self.look("", "", None)
        wanted = [one.decode() for key in keys for one in key.sig_algorithms]
        certified = [f"{one}-cert-v01@openssh.com" for one in _HOST_KEYS if authorities]
        return list(dict.fromkeys([*certified, *wanted, *_HOST_KEYS]))

    def look(self, host: str, address: str, port: int | None) -> tuple[Any, ...]:
        return self._known.of(self.settings.alias, "", self.settings.port)

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        keys, _, _ = self.look(host, addr, port)
        if keys:
            self.changed = key
            return self.settings.strict == "no"
        if self.unknown not in (None, key):  # one connection, one key
            return False
        self.unknown = key
        return self.settings.strict not in ("yes", "ask")


async def _hop(
    way: Way, address: Address, identity: str | None, name: str, behind: frozenset[str]
) -> None:
    """Adds a host to the way, with the jump hosts before it. behind: the hosts that it is the
    way to, which are no jump hosts of their own."""
    settings = ssh_config.read(address.host, address.user, address.port)
    for note in settings.notes:
        way.say(note)
    behind |= {address.host}
    if way.end is None and settings.jumps:
        jumps = [Address.parse(one) for one in settings.jumps]
        if not any(jump.host in behind for jump in jumps):
            for jump in jumps:
                await _hop(way, jump, None, f"{name}: its jump host {jump.host}", behind)
    own = (known_hosts_file(),) if settings.user_files else ()
    files = (*own, *settings.user_files, *settings.global_files)
    host = _Host(settings, known_hosts.Known(files, way.say))
    proxy = None
    with _told(name, identity, host, own):
        keys, agent = await keys_for(settings, identity, way.say)
        if agent is not None:
            way.agents.append(agent)
        if way.end is None and settings.proxy_command:
            proxy = Proxy(settings.proxy_command)
            way.proxies.append(proxy)
        holder = asyncssh.SSHClientConnectionOptions(config=None, client_keys=None)
        holder.config = settings.config
        limit = settings.config.get("ConnectTimeout") or CONNECT_SECONDS
        try:
            way.connections.append(
                await asyncssh.connect(
                    address.host,
                    settings.port,
                    options=holder,
                    username=settings.user,
                    tunnel=way.end,
                    proxy_command=None,
                    sock=None if proxy is None else proxy.socket,
                    client_factory=lambda: host,
                    known_hosts=host.look,
                    server_host_key_algs=host.algorithms(),
                    host_key_alias=settings.alias,
                    password_auth=False,
                    kbdint_auth=False,
                    agent_forwarding=False,
                    command=None,
                    request_pty=False,
                    keepalive_interval=KEEPALIVE_SECONDS,
                    connect_timeout=limit,
                    login_timeout=limit,
                    **keys,
                )
            )
        except asyncssh.PermissionDenied:
            _remember(way, host, own, name)
            raise
        except asyncssh.HostKeyNotVerifiable:
            raise  # whatever a proxy prints beside it
        except (OSError, asyncssh.Error, asyncio.TimeoutError) as error:
            said = proxy.said() if proxy is not None else ""
            if said:
                raise OSError(f"its ProxyCommand says: {said}") from error
            raise
    _remember(way, host, own, name)


def _remember(way: Way, host: _Host, own: tuple[Path, ...], name: str) -> None:
    """A host that was never seen, if there is a file for such; and says so."""
    settings = host.settings
    where = settings.alias if settings.port == 22 else f"[{settings.alias}]:{settings.port}"
    if host.changed is not None:
        way.say(
            f"{name}: THE HOST'S KEY HAS CHANGED ({where} {host.changed.get_fingerprint()}); "
            "taken, since your configuration has StrictHostKeyChecking no"
        )
    if host.unknown is None:
        return
    if own:
        line = known_hosts.line_of(
            settings.alias, settings.port, host.unknown, settings.hash_hosts
        )
        try:
            known_hosts.add(own[0], [line])
        except WriteError as error:
            way.say(str(error))
    way.met(f"{where} {host.unknown.get_fingerprint()}")


@contextlib.contextmanager
def _told(
    name: str, identity: str | None, host: _Host, own: tuple[Path, ...]
) -> Iterator[None]:
    """What goes wrong on the way to a host, in our words."""
    try:
        yield
    except asyncssh.HostKeyNotVerifiable as error:
        if host.unknown is not None:
            strict, alias = host.settings.strict, host.settings.alias
            raise WrongBoardError(
                f"{name}: no key of {alias} is known, and your configuration has "
                f"StrictHostKeyChecking {strict}; it shows "
                f"{host.unknown.get_fingerprint()}: if that is right, log in once with ssh and "
                "answer yes, or set accept-new"
            ) from error
        raise WrongBoardError(
            f"{name}: the host's key is not the one that is known for this address "
            f"({printable(error.reason)}); if the board was set up again, remove its line from "
            f"{own[0] if own else 'the system-wide known_hosts'} or from your own known_hosts"
        ) from error
    except asyncssh.PermissionDenied as error:
        raise NoBoardError(
            f"{name}: none of this machine's keys may log in as {host.settings.user} "
            f"({printable(error.reason)}); put one there with `ssh-copy-id`, or give it with "
            "--identity"
        ) from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        closed = "passphrase" in str(error).lower()
        help = "put it into your ssh agent (ssh-add)" if closed else "give a private key's file"
        raise UsageError(
            f"{identity or name}: no private key that can be read ({error}); {help}"
        ) from error
    except ValueError as error:  # of a value that only asyncssh looks at
        raise UsageError(
            f"{name}: your ssh configuration cannot be used ({printable(str(error))}); see "
            "~/.ssh/config"
        ) from error
    except (OSError, asyncssh.Error, TimeoutError, asyncio.TimeoutError) as error:
        reason = printable(str(error)) or "no answer"
        raise NoBoardError(
            f"{name}: cannot be reached by ssh ({reason}); is it powered, and is this its "
            "address?"
        ) from error
