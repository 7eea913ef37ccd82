"""Logins of real boards: shells that print, wait, flood, or run nothing, by a real server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ssh.server import Server
from ssh.shells import LOGINS, there

from qedge.runtime.errors import NoBoardError, WriteError
from qedge.toolkit.linux import ssh
from qedge.toolkit.linux.ssh import NotStarted, Shell


@pytest.mark.parametrize("login", LOGINS)
def test_every_login_shell_runs_a_script_through_a_real_server(
    login: str, home: Path, server: Server
) -> None:
    program = there(login)
    server.log_in_by(f"{program} sh" if login == "busybox" else program)
    with Shell(server.address, server.key) as shell:
        ended = shell.run("cat; echo \"$# $2\" 'it''s' >&2; exit 3", b"\0\n\xff", ["a", "-b"])
    assert (ended.code, ended.output, ended.complaints) == (3, b"\0\n\xff", "2 -b its")


@pytest.mark.parametrize(
    "before",
    [
        "echo 'Welcome to your board'",
        "printf 'no end of a line'",
        "printf '\\0\\377\\033[2J\\007 qedge- \\n'",
        "head -c 300000 /dev/urandom",
        'echo "$SSH_ORIGINAL_COMMAND"',
        "echo noise >&2",
    ],
)
def test_what_a_login_script_prints_is_passed_over(
    before: str, home: Path, server: Server
) -> None:
    server.log_in_by(before=before)
    began = time.monotonic()
    with Shell(server.address, server.key) as shell:
        assert shell.run("cat", b"data").output == b"data"
        line = shell.line("cat")
        line.write(b"ping")
        came = b""
        while came != b"ping":
            came += line.read(100)
            assert time.monotonic() < began + 30
        line.close()


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ("echo 'This account is currently not available.'; exit 1", "currently not available"),
        ("echo 'go\033[2Jaway' >&2; exit 1", r"go\\x1b\[2Jaway"),
        ("exit 0", "it says nothing"),
        ("kill -9 $$", "runs? no|says nothing|Killed"),
    ],
)
def test_a_login_that_runs_nothing_is_told_with_what_it_said(
    instead: str, said: str, home: Path, server: Server
) -> None:
    server.log_in_by(instead=instead)
    with Shell(server.address, server.key) as shell:
        for call in (shell.run, shell.line):
            with pytest.raises(NotStarted, match=said):
                call("true")


@pytest.mark.parametrize("instead", ["sleep 60", "while :; do echo noise; sleep 0.01; done"])
def test_a_login_that_waits_for_something_is_not_waited_for_without_end(
    instead: str, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "START_SECONDS", 1.0)
    server.log_in_by(instead=instead)
    with Shell(server.address, server.key) as shell:
        for call in (shell.run, shell.line):
            with pytest.raises(NoBoardError, match="no command is run there within 1 s"):
                call("true")


def test_a_login_that_floods_is_cut_off(home: Path, server: Server) -> None:
    server.log_in_by(instead="cat /dev/zero")
    with (
        Shell(server.address, server.key) as shell,
        pytest.raises(NoBoardError, match="prints more than 1,048,576 bytes"),
    ):
        shell.run("true")


def test_a_script_that_floods_is_cut_off_on_either_stream(home: Path, server: Server) -> None:
    with Shell(server.address, server.key) as shell:
        with pytest.raises(NoBoardError, match="prints more than 1,048,576 bytes"):
            shell.run("cat /dev/zero")
        with pytest.raises(NoBoardError, match="has not ended after 1 s"):
            shell.run("cat /dev/zero >&2", seconds=1.0)
        assert shell.run("echo there").output == b"there\n"


def test_a_script_that_hangs_is_not_waited_for_without_end(home: Path, server: Server) -> None:
    with (
        Shell(server.address, server.key) as shell,
        pytest.raises(NoBoardError, match="has not ended after 1 s"),
    ):
        shell.run("sleep 100", seconds=1.0)


def test_a_line_that_floods_is_read_as_it_is_taken(home: Path, server: Server) -> None:
    with Shell(server.address, server.key) as shell:
        line = shell.line("cat /dev/zero")
        time.sleep(1.0)
        assert line.in_waiting < 4 << 20
        assert line.read(10) == bytes(10)
        line.close()


def test_a_line_that_is_not_read_ends_the_write(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "RUN_SECONDS", 1.0)
    with Shell(server.address, server.key) as shell:
        line = shell.line("sleep 100")
        with pytest.raises(OSError, match="no answer"):
            for _ in range(100):
                line.write(bytes(1 << 18))
        line.close()


def test_a_script_that_takes_no_input_is_given_none(home: Path, server: Server) -> None:
    with Shell(server.address, server.key) as shell:
        ended = shell.run("exec <&-; echo there", bytes(8 << 20))
    assert ended.output == b"there\n"


def test_a_connection_that_is_lost_is_a_write_error(home: Path, server: Server) -> None:
    with (
        Shell(server.address, server.key) as shell,
        pytest.raises(WriteError, match="connection was lost"),
    ):
        shell.run(
            'p=$PPID; while [ "$(cat /proc/$p/comm)" != sshd ]; do '
            "p=$(awk '/^PPid/{print $2}' /proc/$p/status); done; kill -9 $p; sleep 5"
        )  # sshd's process for this login
