"""The commands as a user types them, against an emulated board that `qedge emulate` started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from linux.conftest import MakeImage, Prepared

from qedge.runtime.errors import UsageError
from qedge.runtime.model import Model
from qedge.toolkit.board import Board
from qedge.toolkit.emulators.linux import LinuxEmulator

QEDGE = (sys.executable, "-m", "qedge.toolkit")


@pytest.fixture(scope="module")
def started(
    prepared: Prepared, linux_board: Board, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """What `qedge emulate --json` prints, with an identity of the user's own; at the end it is
    told to stop, and must."""
    folder = tmp_path_factory.mktemp("emulate")
    disk, key = folder / "disk", folder / "id_rsa"
    key.write_bytes(asyncssh.generate_private_key("ssh-rsa").export_private_key())
    key.chmod(0o600)
    subprocess.run(["cp", "--sparse=always", prepared.disk, disk], check=True)
    command = [*QEDGE, "emulate", linux_board.name, "--flash-file", str(disk), "--json"]
    command += ["--identity", str(key)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = json.loads(process.stdout.readline())
    assert found["identity"] == str(key)
    yield found
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    process.stdout.close()


@pytest.mark.parametrize(
    ("name", "said"), [("id.pub", "public half"), ("id", "can be read"), ("no", "no such")]
)
def test_an_identity_that_is_none(
    linux_board: Board, tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "id.pub").write_text("ssh-ed25519 AAAA")
    (tmp_path / "id").write_text("no key")
    with pytest.raises(UsageError, match=said):
        LinuxEmulator(linux_board, tmp_path / "disk", identity=tmp_path / name)


def test_a_killed_emulate_leaves_no_emulator(linux_board: Board) -> None:
    command = [*QEDGE, "emulate", linux_board.name, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(json.loads(process.stdout.readline())["port"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as line:
        assert line.recv(4) == b"SSH-"
        process.kill()
        process.wait()
        line.settimeout(10.0)
        with contextlib.suppress(ConnectionResetError):
            while line.recv(4096):
                pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    process.stdout.close()


def call(started: dict[str, Any], *arguments: object) -> dict[str, Any]:
    """A command with --json; its port is given, the key by QEDGE_IDENTITY."""
    ended = subprocess.run(
        [*QEDGE, *map(str, arguments), "-p", started["port"], "--json"],
        env={**os.environ, "QEDGE_IDENTITY": started["identity"]},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout))


def test_a_board_from_dry_run_to_rollback(
    started: dict[str, Any],
    prepared: Prepared,
    linux_board: Board,
    make_image: MakeImage,
    tmp_path: Path,
) -> None:
    board, image = linux_board.name, make_image(60)
    would = call(started, "flash", image, "-b", board, "--dry-run")
    assert would["bytes_to_send"] > 0 and would["board"] == board
    done = call(started, "flash", image, "-b", board)
    assert (
        done["verified"] and done["emulated"] and done["bytes_sent"] == would["bytes_to_send"]
    )
    assert set(done["seconds_before"]) == {"connect", "wheel", "install", "agent"}
    with Model.open(image) as model:
        text = "".join(model.generate("hello", 8, hash=True))
        ran = call(started, "run", board, "hello", "-n", 8, "--hash")
        assert (ran["text"], ran["logits_hash"]) == (text, model.logits_hash())
        assert ran["decode_tokens_per_second"] is None
        assert call(started, "test", board)["logits_hash"] == model.test()
    runs = tmp_path / "runs.jsonl"
    options = ("--repeat", 2, "--prompt-tokens", 8, "--decode-tokens", 4, "--append", runs)
    measured = call(started, "bench", board, *options)
    assert measured["decode_tokens_per_second"] is None and not measured["valid"]
    assert "emulated" in {flag["name"] for flag in measured["flags"]}
    assert json.loads(runs.read_text())["image_id"] == done["image_id"]
    with Model.open(prepared.image) as model:
        assert call(started, "rollback", board)["image_id"] == model.image_id
        assert call(started, "test", board)["logits_hash"] == model.test()


def test_a_board_that_has_nothing_yet_is_left_so_by_a_dry_run(
    started: dict[str, Any], linux_board: Board, make_image: MakeImage
) -> None:
    from qedge.toolkit.linux.board import probe
    from qedge.toolkit.linux.ssh import Shell

    with Shell(started["port"], started["identity"]) as shell:
        root = probe(shell).root
        shell.run(f"mv {root} {root}.away")
        would = call(started, "flash", make_image(61), "-b", linux_board.name, "--dry-run")
        assert would["runtime_bytes"] > 0
        assert would["bytes_to_send"] == make_image(61).stat().st_size
        there = shell.run(f"ls -A {root}").output.decode().split()
        shell.run(f"rm -rf {root}; mv {root}.away {root}")
        assert there == []
