"""Hosts that are known, new or changed, as the user's configuration and files have it, against
a real server of OpenSSH."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncssh
import pytest
from ssh.logins import another, configure, logs_in
from ssh.server import Server, start, stop

from qedge.runtime.errors import WrongBoardError
from qedge.toolkit.linux import known_hosts, ssh_connect


def test_a_host_that_is_met_is_remembered_apart_from_the_cache(
    home: Path, server: Server, tmp_path: Path
) -> None:
    configure(home, server)
    first = logs_in()
    fingerprint = server.host_key.get_fingerprint()
    assert len(first) == 1 and fingerprint in first[0] and "first connection" in first[0]
    own = ssh_connect.known_hosts_file()
    assert own.read_text().strip() == server.known.strip()
    assert tmp_path / "cache" not in own.parents and home in own.parents
    assert own.stat().st_mode & 0o077 == 0
    assert logs_in() == []
    assert not (home / ".ssh/known_hosts").exists()


def test_what_was_remembered_in_the_cache_is_taken_along(
    home: Path, server: Server, tmp_path: Path
) -> None:
    old = tmp_path / "cache" / "known_hosts"
    old.parent.mkdir()
    old.write_text(f"other.host {another()}\n{server.known}")
    configure(home, server)
    assert logs_in() == [] and not old.exists()
    assert ssh_connect.known_hosts_file().read_text().startswith("other.host ssh-ed25519 ")


def test_a_host_whose_key_has_changed_is_refused(home: Path, server: Server) -> None:
    configure(home, server)
    (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{server.port} {another()}\n")
    with pytest.raises(WrongBoardError, match="host's key is not the one that is known"):
        logs_in()
    assert not ssh_connect.known_hosts_file().exists()


@pytest.mark.parametrize("value", ["yes", "ask"])
def test_strict_checking_takes_no_host_that_is_not_known(
    value: str, home: Path, server: Server
) -> None:
    configure(home, server, f"StrictHostKeyChecking {value}")
    with pytest.raises(WrongBoardError, match=f"StrictHostKeyChecking {value}") as caught:
        logs_in()
    assert server.host_key.get_fingerprint() in str(caught.value)
    assert not ssh_connect.known_hosts_file().exists()
    (home / ".ssh/known_hosts").write_text(server.known)
    assert logs_in() == []


def test_accept_new_takes_a_new_host_and_no_changed_one(home: Path, server: Server) -> None:
    configure(home, server, "StrictHostKeyChecking accept-new")
    assert len(logs_in()) == 1
    ssh_connect.known_hosts_file().write_text(f"[127.0.0.1]:{server.port} {another()}\n")
    with pytest.raises(WrongBoardError):
        logs_in()


@pytest.mark.parametrize("value", ["no", "off"])
def test_no_checking_takes_a_changed_host_and_says_so_each_time(
    value: str, home: Path, server: Server
) -> None:
    configure(home, server, f"StrictHostKeyChecking {value}")
    known = home / ".ssh/known_hosts"
    known.write_text(f"[127.0.0.1]:{server.port} {another()}\n")
    for _ in range(2):
        said = logs_in()
        assert len(said) == 1 and "KEY HAS CHANGED" in said[0]
        assert server.host_key.get_fingerprint() in said[0]


@pytest.mark.parametrize("file", ["none", "/dev/null"])
def test_without_a_file_a_host_is_met_each_time_and_never_remembered(
    file: str, home: Path, server: Server
) -> None:
    configure(home, server, f"UserKnownHostsFile {file}")
    own = known_hosts.own_file()
    known_hosts.add(own, [f"[127.0.0.1]:{server.port} {another()}"])
    before = own.read_bytes()
    for _ in range(2):
        assert "first connection to this host" in logs_in()[0]
    assert own.read_bytes() == before
    configure(home, server, f"UserKnownHostsFile {file}\n  StrictHostKeyChecking yes")
    with pytest.raises(WrongBoardError):
        logs_in()


def test_without_a_user_s_file_the_system_s_is_still_read(
    home: Path, server: Server, tmp_path: Path
) -> None:
    system = tmp_path / "ssh_known_hosts"
    strict = "StrictHostKeyChecking yes\n  UserKnownHostsFile none\n"
    configure(home, server, f'{strict}  GlobalKnownHostsFile /none "{system}"')
    system.write_text(server.known)
    assert logs_in() == []
    system.write_text(f"[127.0.0.1]:{server.port} {another()}\n")
    with pytest.raises(WrongBoardError, match="system-wide known_hosts"):
        logs_in()


def test_of_several_files_each_is_read(home: Path, server: Server) -> None:
    (home / ".ssh/one").write_text("")
    (home / ".ssh/two files").write_text(server.known)
    more = 'UserKnownHostsFile ~/.ssh/one ~/.ssh/absent "~/.ssh/two files"'
    configure(home, server, f"{more}\n  StrictHostKeyChecking yes")
    assert logs_in() == []


def test_names_are_hashed_where_the_configuration_says_so(home: Path, server: Server) -> None:
    configure(home, server, "HashKnownHosts yes")
    assert len(logs_in()) == 1
    own = ssh_connect.known_hosts_file()
    assert own.read_text().startswith("|1|") and "127.0.0.1" not in own.read_text()
    assert logs_in() == []
    found = subprocess.run(
        ["ssh-keygen", "-F", f"[127.0.0.1]:{server.port}", "-f", own], capture_output=True
    )
    assert found.returncode == 0 and b"|1|" in found.stdout


ODD = b"""\
# a comment
pi
127.0.0.1 ssh-ed25519
127.0.0.1 ssh-ed25519 AAAA
|1|broken ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0000000000000000000000000000000000000000000
@nonsense * ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0000000000000000000000000000000000000000000
caf\xe9 \xff\xfe\x00
"""


def test_a_line_of_known_hosts_that_cannot_be_read_is_passed_over_and_named(
    home: Path, server: Server
) -> None:
    configure(home, server, "StrictHostKeyChecking yes")
    known = home / ".ssh/known_hosts"
    known.write_bytes(ODD + server.known.encode())
    said = logs_in()
    assert [line.split(": ")[0] for line in said[:3]] == [
        f"{known} line {number}" for number in (2, 3, 4)
    ]
    assert len(said) == 4 and "3 more lines" in said[3]
    assert all(line.isprintable() for line in said)


def test_kinds_of_keys_that_are_not_known_here_are_no_fault(home: Path, server: Server) -> None:
    import base64

    blob = base64.b64encode(b"\0\0\0\x07ssh-new12345678").decode()
    (home / ".ssh/known_hosts").write_text(f"other ssh-new {blob}\n{server.known}")
    configure(home, server, "StrictHostKeyChecking yes")
    assert logs_in() == []


def test_a_revoked_key_is_refused_whatever_the_configuration_says(
    home: Path, server: Server
) -> None:
    configure(home, server, "StrictHostKeyChecking no")
    (home / ".ssh/known_hosts").write_text(f"@revoked {server.known}")
    with pytest.raises(WrongBoardError, match="revoked"):
        logs_in()


def test_two_that_remember_hosts_at_once_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "known_hosts"
    code = (
        "import sys; from pathlib import Path\n"
        "from qedge.toolkit.linux.known_hosts import add\n"
        "for n in range(50): add(Path(sys.argv[1]), [f'{sys.argv[2]}-{n} key', 'same key'])"
    )
    command = [sys.executable, "-c", code, str(path)]
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda who: subprocess.run([*command, who]).returncode, "abc"))
    assert done == [0, 0, 0]
    expected = {f"{who}-{n} key" for who in "abc" for n in range(50)} | {"same key"}
    assert sorted(path.read_text().splitlines()) == sorted(expected)


def test_a_last_line_without_an_end_is_not_spoiled(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_bytes(b"a key")
    known_hosts.add(path, ["b key"])
    assert path.read_bytes() == b"a key\nb key\n"


def test_a_host_that_cannot_be_remembered_is_told_and_used(
    home: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(home, server)
    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(ssh_connect, "known_hosts_file", lambda: tmp_path / "a file" / "known")
    said = logs_in()
    assert len(said) == 2 and "cannot be remembered" in said[0]


def test_a_host_with_a_certificate_is_met_by_its_key_and_known_by_its_authority(
    home: Path, server: Server, tmp_path: Path
) -> None:
    authority = asyncssh.generate_private_key("ssh-ed25519")
    certified = start(
        tmp_path / "certified", authorized=Path(f"{server.key}.pub"), authority=authority
    )
    try:
        configure(home, certified, key=server.key)
        assert len(logs_in()) == 1 and logs_in() == []
        public = authority.export_public_key().decode()
        ssh_connect.known_hosts_file().write_text(f"@cert-authority * {public}")
        configure(home, certified, "StrictHostKeyChecking yes", key=server.key)
        assert logs_in() == []
        ssh_connect.known_hosts_file().write_text(f"@cert-authority * {another()}\n")
        with pytest.raises(WrongBoardError):
            logs_in()
    finally:
        stop(certified)


def test_a_key_of_another_kind_than_the_known_one_counts_as_changed(
    home: Path, server: Server
) -> None:
    configure(home, server)
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    known = other.export_public_key().decode()
    (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{server.port} {known}")
    with pytest.raises(WrongBoardError, match="not the one that is known"):
        logs_in()
