"""Logins that tests make, and the configurations of a user's that they begin from."""

from __future__ import annotations

from pathlib import Path

import asyncssh
from ssh.server import Server

from qedge.toolkit.linux.ssh import Shell


def configure(home: Path, server: Server, more: str = "", key: Path | None = None) -> None:
    """In which the server is called `pi`."""
    (home / ".ssh/config").write_text(
        f"Host pi\n  HostName 127.0.0.1\n  Port {server.port}\n  User {server.user}\n"
        f'  IdentityFile "{key or server.key}"\n  {more}\n'
    )


def logs_in(address: str = "pi", identity: str | None = None) -> list[str]:
    """What is said on a login that works."""
    said: list[str] = []
    with Shell(address, identity, said.append) as shell:
        assert shell.run("echo there").output == b"there\n"
    return said


def another() -> str:
    key = asyncssh.generate_private_key("ssh-ed25519")
    return key.export_public_key().decode().strip()
