"""Keys of hosts that are known (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"): the user's own files
are read, and those of hosts that qedge has met itself are kept with the user's other data.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import asyncssh
from asyncssh.known_hosts import SSHKnownHosts
from asyncssh.public_key import get_public_key_algs

from qedge.runtime.errors import QedgeError, WriteError
from qedge.runtime.text import printable
from qedge.toolkit.files import cache_folder

_SHOWN = 3  # lines of a file that are named as ignored


def own_file() -> Path:
    """Where hosts that were met the first time are remembered: the user's data folder, which
    nobody empties, as it may happen to a cache."""
    import platformdirs

    try:
        path = Path(platformdirs.user_data_dir("qedge")) / "known_hosts"
    except RuntimeError:
        path = Path()
    if not path.is_absolute():  # a user without a home: hosts are met each time
        return Path(os.devnull)
    _take_over(path)
    return path


def _take_over(path: Path) -> None:
    """What was remembered in the cache, where earlier versions did, comes along."""
    with contextlib.suppress(OSError, QedgeError):
        old = cache_folder() / "known_hosts"
        if not old.is_file():
            return
        lines = old.read_bytes().splitlines()
        add(path, [line.decode("utf-8", "surrogateescape") for line in lines if line.strip()])
        old.unlink()


def add(path: Path, lines: Iterable[str]) -> None:
    """Adds lines that a file has not yet, whoever else adds some at the same time. WriteError
    when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: an append is one
                fcntl.flock(number, fcntl.LOCK_EX)
            there = path.read_bytes()
            known = set(there.splitlines())
            new = [one for line in lines if (one := os.fsencode(line)) not in known]
            data = b"".join(line + b"\n" for line in new)
            if data and there and not there.endswith(b"\n"):
                data = b"\n" + data
            while data:
                data = data[os.write(number, data) :]
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        raise WriteError(
            f"{path}: {error.strerror}; the host's key cannot be remembered: make that file "
            "writable, or put the key into your own known_hosts"
        ) from error


def line_of(host: str, port: int, key: asyncssh.SSHKey, hashed: bool) -> str:
    """A file's line for a host. hashed: its name is not readable, as HashKnownHosts says."""
    name = host if port == 22 else f"[{host}]:{port}"
    if hashed:
        salt = os.urandom(20)
        digest = hmac.new(salt, name.encode("utf-8", "surrogateescape"), hashlib.sha1).digest()
        name = "|1|" + "|".join(base64.b64encode(part).decode() for part in (salt, digest))
    kind, data = key.export_public_key().decode().split()[:2]
    return f"{name} {kind} {data}"


class Known:
    """What is known of hosts' keys, of several files. A line that cannot be read is passed
    over, as OpenSSH does, and named once."""

    def __init__(self, files: Iterable[str | Path], say: Callable[[str], None]) -> None:
        self._table = SSHKnownHosts()
        for file in files:
            try:
                data = Path(file).read_bytes()
            except OSError as error:
                if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                    say(f"{file}: {error.strerror}; the hosts in it are not known")
                continue
            self._read(data, str(file), say)

    def _read(self, data: bytes, file: str, say: Callable[[str], None]) -> None:
        wrong = 0
        for number, line in enumerate(data.split(b"\n"), 1):
            text = line.decode("utf-8", "surrogateescape").strip()
            if not text or text.startswith("#"):
                continue
            try:
                if "\0" in text or not _key_of(text):
                    raise ValueError("no key that can be read")
                self._table.load(text)
            except (ValueError, UnicodeError, asyncssh.Error) as error:
                wrong += 1
                if wrong <= _SHOWN:
                    say(f"{file} line {number}: ignored ({printable(str(error))[:100]})")
        if wrong > _SHOWN:
            say(f"{file}: {wrong - _SHOWN} more lines were ignored")

    def of(
        self, host: str, address: str, port: int
    ) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
        """Its keys, those of authorities that vouch for it, and the ones that are revoked.
        What is known of port 22 says nothing about another one: that may be another machine."""
        name = host if port == 22 else f"[{host}]:{port}"
        found = self._table.match(name, address if port == 22 else "", None)
        return list(found[0]), list(found[1]), list(found[2])


def _key_of(text: str) -> bool:
    """Whether a line has a key of a kind that is known here, or one of a kind that is not,
    which is no fault of the line."""
    words = text.split()
    words = words[1:] if words[0].startswith("@") else words
    if len(words) < 3:
        return False
    try:
        asyncssh.import_public_key(f"{words[1]} {words[2]}")
    except asyncssh.KeyImportError:
        try:
            blob = base64.b64decode(words[2], validate=True)
        except ValueError:
            return False
        kind = words[1].encode("utf-8", "surrogateescape")
        named = blob[:4] == len(kind).to_bytes(4, "big") and blob[4:].startswith(kind)
        return named and kind not in get_public_key_algs()
    return True
