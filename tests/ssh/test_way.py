"""The way to a real server of OpenSSH, as the user's configuration has it: keys, agents, jump
hosts and proxy commands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from ssh.logins import another, configure, logs_in
from ssh.server import Server, start, stop

from qedge.runtime.errors import NoBoardError, QedgeError, UsageError, WrongBoardError
from qedge.toolkit.linux import ssh_connect
from qedge.toolkit.linux.ssh import Shell


@pytest.fixture(scope="session")
def gate(running_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Another host, by which the server may be reached. The same key may log in."""
    found = start(tmp_path_factory.mktemp("gate"), authorized=Path(f"{running_server.key}.pub"))
    yield found
    stop(found)


# ---- keys ----


@pytest.mark.parametrize(
    ("name", "said"), [("", "directory"), ("absent", "no such identity file"), ("a\0b", "null")]
)
def test_an_identity_that_was_given_and_cannot_be_read_is_a_usage_error(
    name: str, said: str, home: Path, server: Server
) -> None:
    with pytest.raises(UsageError, match=said):
        logs_in(server.address, f"{home}/{name}")


def test_an_identity_that_does_not_exist_is_passed_over(home: Path, server: Server) -> None:
    configure(home, server, f"IdentityFile {server.key}", key=home / "absent")
    (home / ".ssh/known_hosts").write_text(server.known)
    said = logs_in()
    assert len(said) == 1 and f"{home}/absent: no such file" in said[0]
    configure(home, server, "IdentitiesOnly yes", key=home / "absent")
    assert logs_in(identity=str(server.key)) == []


@pytest.mark.parametrize(
    "content", [b"", b"no key\xff\n", b"-----BEGIN OPENSSH PRIVATE KEY-----"]
)
def test_an_identity_that_is_no_key_is_passed_over(
    content: bytes, home: Path, server: Server
) -> None:
    (home / "odd").write_bytes(content)
    configure(home, server, f"IdentityFile {server.key}", key=home / "odd")
    (home / ".ssh/known_hosts").write_text(server.known)
    said = logs_in()
    assert len(said) == 1 and f"{home}/odd: is not a private key" in said[0]


def test_only_absent_identities_end_as_no_key_that_may_log_in(
    home: Path, server: Server
) -> None:
    configure(home, server, key=home / "absent")
    with pytest.raises(NoBoardError, match="none of this machine's keys may log in"):
        logs_in()
    # the user's usual keys are not tried where the configuration names others
    (home / ".ssh/id_ed25519").write_bytes(server.key.read_bytes())
    (home / ".ssh/id_ed25519").chmod(0o600)
    with pytest.raises(NoBoardError, match="none of this machine's keys may log in"):
        logs_in()
    (home / ".ssh/config").unlink()
    assert len(logs_in(server.address)) == 0  # it was met before


def test_a_usual_key_that_is_damaged_does_no_harm(home: Path, server: Server) -> None:
    (home / ".ssh/id_rsa").write_bytes(b"damaged")
    (home / ".ssh/id_ed25519").write_bytes(server.key.read_bytes())
    assert len(logs_in(server.address)) == 1


@pytest.fixture
def agent(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An agent that has the key; its socket."""
    socket = home / "a.sock"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        environment = {"SSH_AUTH_SOCK": str(socket)}
        subprocess.run(["ssh-add", "-q", server.key], check=True, env=environment)
        yield socket
        process.terminate()


def test_an_agent_is_used_as_the_configuration_says(
    home: Path, server: Server, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".ssh/known_hosts").write_text(server.known)
    public = home / "public.pub"
    public.write_bytes(Path(f"{server.key}.pub").read_bytes())
    works = (f'IdentityAgent "{agent}"', f'IdentityAgent "{agent}"\n  IdentitiesOnly yes')
    for more in works:
        configure(home, server, more, key=public)
        assert logs_in() == []
    configure(home, server, f'IdentityAgent "{agent}"', key=home / "absent")
    assert len(logs_in()) == 1
    fails = (
        f'IdentityAgent "{agent}"\n  IdentitiesOnly yes',
        "IdentityAgent none",
        "IdentityAgent /none",
    )
    for more in fails:
        configure(home, server, more, key=home / "absent")
        with pytest.raises(NoBoardError, match="may log in"):
            logs_in()
    monkeypatch.setenv("OTHER_SOCKET", str(agent))
    configure(home, server, "IdentityAgent $OTHER_SOCKET", key=public)
    assert logs_in() == []


def test_a_key_with_a_passphrase_is_the_agent_s(
    home: Path, server: Server, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".ssh/known_hosts").write_text(server.known)
    closed = home / "closed"
    key = asyncssh.read_private_key(server.key)
    closed.write_bytes(key.export_private_key("pkcs8-pem", passphrase="a secret"))
    with pytest.raises(UsageError, match="ssh-add"):
        logs_in(server.address, str(closed))
    configure(home, server, key=closed)
    with pytest.raises(NoBoardError, match="may log in"):
        logs_in()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    assert logs_in() == [] and logs_in(server.address, str(closed)) == []


def test_a_certificate_logs_in_where_it_is_wanted(home: Path, server: Server) -> None:
    mine = asyncssh.generate_private_key("ssh-ed25519")
    authority = asyncssh.read_private_key(server.key)
    mine.write_private_key(home / "mine")
    signed = authority.generate_user_certificate(mine, "me", principals=[server.user])
    signed.write_certificate(home / "signed.pub")
    (home / ".ssh/known_hosts").write_text(server.known)
    allowed = server.folder / "authorized"
    before = allowed.read_text()
    try:
        allowed.write_text(f"cert-authority {before}")
        more = f'CertificateFile "{home}/signed.pub"\n  CertificateFile /none'
        configure(home, server, f"{more}\n  IdentitiesOnly yes", key=home / "mine")
        said = logs_in()
    finally:
        allowed.write_text(before)
    assert len(said) == 1 and "/none: " in said[0]


def test_what_else_the_configuration_says_reaches_the_connection(
    home: Path, server: Server
) -> None:
    configure(home, server, "Ciphers aes128-ctr\n  RequestTTY force\n  RemoteCommand false")
    with Shell("pi") as shell:
        assert shell.run("tty; echo there").output == b"not a tty\nthere\n"
        assert shell._connection.get_extra_info("send_cipher") == "aes128-ctr"
    configure(home, server, "Ciphers nonsense")
    with pytest.raises(NoBoardError, match="No matching encryption algorithm"):
        logs_in()


# ---- jumps and proxies ----


def behind(home: Path, server: Server, gate: Server, how: str) -> None:
    """In which the server is called `inner`, and lies behind `gate`."""
    key = f"IdentityFile {server.key}\n  User {server.user}"
    (home / ".ssh/config").write_text(
        f"Host gate\n  HostName 127.0.0.1\n  Port {gate.port}\n  {key}\n"
        f"Host inner\n  HostName 127.0.0.1\n  Port {server.port}\n  {key}\n  {how}\n"
    )


def test_a_board_behind_a_jump_host_and_both_are_met(
    home: Path, server: Server, gate: Server
) -> None:
    behind(home, server, gate, "ProxyJump gate\n  HostKeyAlias the-inner")
    said = logs_in("inner")
    assert len(said) == 2 and server.host_key.get_fingerprint() in said[1]
    own = ssh_connect.known_hosts_file().read_text().splitlines()
    assert [line.split()[0] for line in own] == [
        f"[127.0.0.1]:{gate.port}",
        f"[the-inner]:{server.port}",
    ]
    assert logs_in("inner") == []


def test_a_jump_host_is_checked_as_its_own_lines_say(
    home: Path, server: Server, gate: Server
) -> None:
    behind(home, server, gate, "ProxyJump gate")
    config = home / ".ssh/config"
    config.write_text(config.read_text().replace("Host gate\n", f"Host gate\n  {STRICT}\n"))
    with pytest.raises(WrongBoardError, match="inner: its jump host gate"):
        logs_in("inner")
    (home / ".ssh/known_hosts").write_text(gate.known)
    assert len(logs_in("inner")) == 1


STRICT = "StrictHostKeyChecking yes"


def test_a_jump_host_by_its_address(home: Path, server: Server, gate: Server) -> None:
    jump = f"ssh://{gate.user}@127.0.0.1:{gate.port}"
    behind(home, server, gate, f"ProxyJump {jump}")
    (home / ".ssh/id_ed25519").write_bytes(server.key.read_bytes())
    assert len(logs_in("inner")) == 2


def test_nobody_behind_a_jump_host(home: Path, server: Server, gate: Server) -> None:
    behind(home, server, gate, "ProxyJump gate")
    with pytest.raises(NoBoardError, match="inner:9: cannot be reached"):
        logs_in("inner:9")


def test_a_proxy_command_is_a_shell_s_and_leaves_nothing_behind(
    home: Path, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "pipe.py").write_text(
        "import os, socket, sys, threading\n"
        "line = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while data := os.read(0, 65536): line.sendall(data)\n"
        "    line.shutdown(socket.SHUT_WR)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := line.recv(65536): os.write(1, data)\n"
    )
    command = f'{sys.executable} "{tmp_path}/pipe.py" %h %p 2>/dev/null'
    configure(home, server, f"ProxyCommand {command}")
    code = (
        "import sys\n"
        "from qedge.toolkit.linux.ssh import Shell\n"
        "with Shell('pi') as shell: print(shell.run('echo there').output)\n"
        "import gc; gc.collect()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True
    )
    assert done.stdout == "b'there\\n'\n" and done.stderr == "", done.stderr
    assert "127.0.0.1" in ssh_connect.known_hosts_file().read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sh -c 'echo no way there >&2; exit 1'", "its ProxyCommand says: no way there"),
        ("/no/such/program %h", "its ProxyCommand says: .*no/such/program"),
        ("true", "cannot be reached by ssh"),
        ("printf 'HTTP/1.0 400\\r\\n\\r\\n'", "cannot be reached by ssh"),
    ],
)
def test_a_proxy_command_that_fails_is_named_as_the_cause(
    command: str, said: str, home: Path, server: Server
) -> None:
    configure(home, server, f"ProxyCommand {command}")
    with pytest.raises(NoBoardError, match=said):
        logs_in()


def test_a_proxy_command_that_prints_does_not_hide_that_a_key_has_changed(
    home: Path, server: Server, gate: Server
) -> None:
    key = f"-i {server.key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    jump = f"ssh -v {key} -p {gate.port} -W %h:%p {gate.user}@127.0.0.1"
    configure(home, server, f"ProxyCommand {jump}")
    assert len(logs_in()) == 1
    ssh_connect.known_hosts_file().write_text(f"[127.0.0.1]:{server.port} {another()}\n")
    with pytest.raises(WrongBoardError, match="not the one that is known"):
        logs_in()


def test_a_user_with_an_at_sign_reaches_the_server(home: Path, server: Server) -> None:
    with pytest.raises(NoBoardError, match="may log in as pi@work"):
        logs_in(f"pi@work@127.0.0.1:{server.port}", str(server.key))


def test_a_server_that_never_answers_is_not_waited_for_without_end(home: Path) -> None:
    import socket

    (home / ".ssh/config").write_text("ConnectTimeout 1\n")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"x@127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(NoBoardError, match="cannot be reached"):
            logs_in(address)


@pytest.mark.parametrize(
    "banner", [b"\x1b[2Jgo away\r\n" * 10, b"SSH-2.0-\x1b[31m\r\n", b"\0" * 99]
)
def test_what_another_service_says_reaches_no_terminal(banner: bytes, home: Path) -> None:
    import socket
    import threading

    (home / ".ssh/config").write_text("ConnectTimeout 2\n")
    with socket.create_server(("127.0.0.1", 0)) as odd:

        def answer() -> None:
            peer, _ = odd.accept()
            with peer:
                peer.sendall(banner)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(QedgeError) as caught:
            logs_in(f"x@127.0.0.1:{odd.getsockname()[1]}")
    assert str(caught.value).isprintable()
