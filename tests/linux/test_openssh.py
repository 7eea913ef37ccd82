"""OpenSSH's server, which real boards run, and what the user's own ssh configuration says:
names, known hosts, agent, and a jump host, behind which the board is."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from linux.conftest import MakeImage, Prepared, put

from qedge.runtime.errors import NoBoardError, WrongBoardError
from qedge.runtime.model import Model
from qedge.toolkit.board import Board
from qedge.toolkit.device import remote
from qedge.toolkit.device.reach import reach
from qedge.toolkit.emulators.linux import LinuxEmulator
from qedge.toolkit.emulators.rootfs import Apt
from qedge.toolkit.fetch.pull import cache_folder
from qedge.toolkit.linux import ssh_connect
from qedge.toolkit.linux.ssh import Shell

BEHIND = 2200  # a port of the board that only the board itself reaches
_SET_UP = f"""set -e
mkdir -p /run/sshd
echo 'sshd:x:74:65534::/run/sshd:/usr/sbin/nologin' >> /etc/passwd
chmod 600 /etc/ssh/key
printf 'HostKey /etc/ssh/key\\nPidFile none\\n' > /etc/ssh/qedge
# who listens goes, and not who serves this shell
for p in $(pidof dropbear); do
    [ $(awk '{{print $4}}' /proc/$p/stat) != 1 ] || kill $p
done
dropbear -r /etc/dropbear/dropbear_ed25519_host_key -p 127.0.0.1:{BEHIND}
/usr/sbin/sshd -f /etc/ssh/qedge
"""


def _not_libc(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "libc.so" in entry.name or "ld-linux" in entry.name else entry


def openssh(folder: Path, host_key: bytes) -> bytes:
    """A tar of Debian's sshd for arm64 with its libraries, and a host key."""
    apt = Apt(folder / "apt")
    apt.install("openssh-server")
    root = folder / "root"
    for package in apt.archives.glob("*_arm64.deb"):
        if package.name.startswith(("openssh-server_", "lib")) and "perl" not in package.name:
            subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w:gz", compresslevel=1) as tar:
        for part in ("sbin/sshd", "lib/aarch64-linux-gnu"):
            for path in [p for p in (root / "usr" / part, root / part) if p.exists()]:
                tar.add(path, f"usr/{part}", filter=_not_libc)
        entry = tarfile.TarInfo("etc/ssh/key")
        entry.size = len(host_key)
        tar.addfile(entry, io.BytesIO(host_key))
    return found.getvalue()


@pytest.fixture(scope="module")
def host_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture(scope="module")
def board_with_openssh(
    prepared: Prepared,
    linux_board: Board,
    host_key: asyncssh.SSHKey,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LinuxEmulator]:
    folder = tmp_path_factory.mktemp("openssh")
    packed = openssh(folder, host_key.export_private_key())
    with LinuxEmulator(linux_board, prepared.disk, overlay=folder / "overlay") as emulator:
        with Shell(emulator.port, emulator.identity) as shell:
            assert shell.run("tar -xz -C /", packed).code == 0
            done = shell.run("sh -s", _SET_UP.encode())
            assert done.code == 0, done.complaints
        yield emulator


@pytest.fixture
def home(
    board_with_openssh: LinuxEmulator,
    host_key: asyncssh.SSHKey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A user's home with an ssh configuration in which the board is called `pi`, and what is
    behind it `inner`."""
    port = board_with_openssh.port.rpartition(":")[2]
    (tmp_path / ".ssh").mkdir(mode=0o700)
    key = f'User root\n    IdentityFile "{board_with_openssh.identity}"'
    (tmp_path / ".ssh/config").write_text(
        f"Host pi\n    HostName 127.0.0.1\n    Port {port}\n    {key}\n"
        "    UserKnownHostsFile ~/.ssh/boards\n"
        f"Host inner\n    HostName 127.0.0.1\n    Port {BEHIND}\n    {key}\n"
        "    HostKeyAlias inner\n    ProxyJump pi\n"
    )
    public = host_key.export_public_key().decode().strip()
    (tmp_path / ".ssh/boards").write_text(f"[127.0.0.1]:{port} {public}\n")
    monkeypatch.setenv("QEDGE_CACHE", str(cache_folder()))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr(ssh_connect, "known_hosts_file", lambda: tmp_path / "ours")
    return tmp_path


def test_a_board_with_openssh_by_its_name_in_the_configuration(
    home: Path, linux_board: Board, make_image: MakeImage
) -> None:
    image = make_image(40)
    with reach(linux_board, "pi") as there, Model.open(image) as model:
        assert put(there, image, linux_board).verified
        assert remote.test(there.device) == model.test()
    assert not (home / "ours").exists()  # it was known


def test_a_board_behind_a_jump_host(
    home: Path, linux_board: Board, make_image: MakeImage
) -> None:
    image, said = make_image(41), list[str]()
    with reach(linux_board, "inner", say=said.append) as there:
        assert put(there, image, linux_board).verified
    assert (home / "ours").read_text().startswith(f"[inner]:{BEHIND} ssh-ed25519 ")
    assert len(said) == 1 and "first connection to this host" in said[0]
    with reach(linux_board, "inner", say=said.append) as there:
        assert put(there, image, linux_board).bytes_sent == 0
    assert len(said) == 1


def test_a_jump_host_that_was_never_seen_is_met_too(home: Path) -> None:
    (home / ".ssh/boards").write_text("")
    said: list[str] = []
    with Shell("inner", say=said.append):
        pass
    met = [line.split()[0] for line in (home / "ours").read_text().splitlines()]
    assert [line.split()[-2] for line in said] == met and len(met) == 2


def test_a_jump_host_whose_key_has_changed_is_named(home: Path) -> None:
    known = home / ".ssh/boards"
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known.write_text(f"{known.read_text().split()[0]} {other}")
    with pytest.raises(WrongBoardError, match="inner: its jump host pi"), Shell("inner"):
        pass


def test_nobody_behind_a_jump_host(home: Path) -> None:
    with pytest.raises(NoBoardError, match="inner:9: cannot be reached"), Shell("inner:9"):
        pass


def test_a_host_that_is_its_own_jump_host_ends(home: Path) -> None:
    with open(home / ".ssh/config", "a") as file:
        file.write("Host *\n    ProxyJump pi\n")
    with Shell("pi") as shell:
        assert shell.run("echo there").output == b"there\n"


def test_a_key_with_a_passphrase_is_the_agent_s(
    home: Path, board_with_openssh: LinuxEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = asyncssh.read_private_key(board_with_openssh.identity)
    closed = home / "closed"
    closed.write_bytes(key.export_private_key("pkcs8-pem", passphrase="a secret"))
    closed.chmod(0o600)
    address = board_with_openssh.port
    with pytest.raises(Exception, match="ssh-add"), Shell(address, closed):
        pass
    socket = str(home / "agent")
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()  # it listens
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        subprocess.run(["ssh-add", "-q", board_with_openssh.identity], check=True)
        for given in (closed, None):
            with Shell(address, given) as shell:
                assert shell.run("echo there").output == b"there\n"
        agent.terminate()


def test_port_22_s_key_says_nothing_of_another_port(
    home: Path, board_with_openssh: LinuxEmulator
) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (home / ".ssh/known_hosts").write_text(f"127.0.0.1 {other}")
    said: list[str] = []
    with Shell(board_with_openssh.port, board_with_openssh.identity, said.append):
        pass
    assert len(said) == 1
