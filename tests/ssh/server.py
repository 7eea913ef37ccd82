"""OpenSSH's own server on this machine, with a home and a login shell of the test's choice:
what a board is to `Shell`, without a board."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
import pytest

SSHD = "/usr/sbin/sshd"


@dataclass
class Server:
    """One that runs. `log_in_by` changes what the next login is."""

    port: int
    folder: Path
    host_key: asyncssh.SSHKey
    key: Path  # that may log in
    home: bytes
    process: subprocess.Popen[bytes]
    user: str = field(default_factory=getpass.getuser)

    @property
    def address(self) -> str:
        return f"{self.user}@127.0.0.1:{self.port}"

    @property
    def known(self) -> str:
        """A line of known_hosts."""
        return f"[127.0.0.1]:{self.port} {self.host_key.export_public_key().decode()}"

    def log_in_by(
        self, shell: str = "sh", before: str = "", instead: str = "", path: str = ""
    ) -> None:
        """shell: the login shell. before: what a start file of it would do, in sh. instead: of
        running any command."""
        run = f'exec {shell} -c "$SSH_ORIGINAL_COMMAND"'
        text = (
            f"#!/bin/sh\nHOME={shlex.quote(os.fsdecode(self.home))}; export HOME\n"
            "unset XDG_DATA_HOME\n"
            f"PATH={shlex.quote(path or str(Path(sys.executable).parent))}:$PATH; export PATH\n"
            f'cd -- "$HOME"\n{before}\n{instead or run}\n'
        )
        (self.folder / "login").write_bytes(os.fsencode(text))


def start(
    folder: Path,
    home: bytes | None = None,
    authorized: Path | None = None,
    authority: asyncssh.SSHKey | None = None,
) -> Server:
    """authorized: the public key that may log in, instead of a new one. authority: it vouches
    for the host's key, by a certificate that the server shows."""
    if not os.path.exists(SSHD) or shutil.which("ssh-keygen") is None:
        need = "no sshd here: tests/packages.sh installs it"
        if os.environ.get("CI") or os.geteuid() == 0:
            pytest.fail(need, pytrace=False)
        pytest.skip(need)
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)  # where it locks itself in
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    (folder / "host_key").write_bytes(host_key.export_private_key())
    (folder / "host_key").chmod(0o600)
    key = folder / "id"
    mine = asyncssh.generate_private_key("ssh-ed25519")
    mine.write_private_key(key)
    mine.write_public_key(f"{key}.pub")
    key.chmod(0o600)
    shutil.copyfile(authorized or f"{key}.pub", folder / "authorized")
    home = home if home is not None else os.fsencode(folder / "home")
    os.makedirs(home, exist_ok=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    login = folder / "login"
    certificate = ""
    if authority is not None:
        signed = authority.generate_host_certificate(host_key, "it", principals=["127.0.0.1"])
        signed.write_certificate(folder / "host_key-cert.pub")
        certificate = f"HostCertificate {folder}/host_key-cert.pub\n"
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxSessions 50\n"
        f"MaxStartups 100\nPermitRootLogin yes\nForceCommand sh {login}\nLogLevel ERROR\n"
        f"{certificate}"
    )
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stderr=log)
    server = Server(port, folder, host_key, key, home, process)
    server.log_in_by()
    while True:
        assert process.poll() is None, (folder / "log").read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.02)


def stop(server: Server) -> None:
    server.process.terminate()
    server.process.wait()
