"""What goes wrong between here and a board: a clear error each, its exit code, nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from linux.conftest import MakeImage, Prepared, put
from linux.test_power_cut import Cut

from qedge.runtime.errors import BudgetError, NoBoardError, WriteError, WrongBoardError
from qedge.runtime.model import Model
from qedge.toolkit.board import Board
from qedge.toolkit.device import remote
from qedge.toolkit.device.reach import reach
from qedge.toolkit.emulators.linux import LinuxEmulator
from qedge.toolkit.linux import ssh_connect
from qedge.toolkit.linux.board import probe
from qedge.toolkit.linux.ssh import Shell


def another_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def test_nobody_at_the_address() -> None:
    with pytest.raises(NoBoardError, match="cannot be reached"), Shell("root@127.0.0.1:1"):
        pass


def test_a_key_that_may_not_log_in(running: LinuxEmulator, tmp_path: Path) -> None:
    path = tmp_path / "id"
    path.write_bytes(
        another_key().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    refused = pytest.raises(NoBoardError, match="none of this machine.s keys")
    with refused, Shell(running.port, path):
        pass


def test_a_host_key_that_has_changed(
    running: LinuxEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = (
        another_key()
        .public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    known = tmp_path / "known_hosts"
    port = running.port.rpartition(":")[2]
    known.write_text(f"[127.0.0.1]:{port} {public.decode()}\n")
    monkeypatch.setattr(ssh_connect, "known_hosts_file", lambda: known)
    with (
        pytest.raises(WrongBoardError, match="host's key is not"),
        Shell(running.port, running.identity),
    ):
        pass
    assert known.read_text().count("\n") == 1


def test_a_board_far_from_today_s_date_is_set_up_and_flashed(
    running: LinuxEmulator, linux_board: Board, make_image: MakeImage
) -> None:
    with Shell(running.port, running.identity) as shell:
        now = probe(shell).clock
        shell.run(f"rm -rf {probe(shell).root}/runtime-*; date -s '1999-01-01 00:00:00'")
        try:
            with reach(linux_board, running.port, str(running.identity)) as there:
                assert put(there, make_image(30), linux_board).verified
        finally:
            shell.run(f"date -s @{now}")


def test_a_connection_that_is_lost_in_the_middle(
    running: LinuxEmulator, linux_board: Board, make_image: MakeImage
) -> None:
    new = make_image(31)
    with (
        Shell(running.port, running.identity) as shell,
        pytest.MonkeyPatch.context() as patch,
        reach(linux_board, running.port, str(running.identity)) as there,
    ):
        before = there.hello.image_id
        agents = "ps | awk '/[q]edge.runtime.agent/{print $1}'"
        Cut(patch, 20, lambda: shell.run(f"kill -9 $({agents})"))
        with pytest.raises(WriteError, match="connection was lost"):
            put(there, new, linux_board)
    with reach(linux_board, running.port, str(running.identity)) as there:
        assert there.hello.image_id == before
        done = put(there, new, linux_board)
        assert done.verified and done.bytes_sent <= done.bytes_total
        with Model.open(new) as model:
            assert remote.test(there.device) == model.test()


@pytest.fixture
def alone(prepared: Prepared, linux_board: Board, tmp_path: Path) -> Iterator[LinuxEmulator]:
    """A board of the test's own, whose disk it may spoil."""
    overlay = tmp_path / "overlay"
    with LinuxEmulator(linux_board, prepared.disk, overlay=overlay) as emulator:
        yield emulator


def test_a_full_disk(alone: LinuxEmulator, linux_board: Board, make_image: MakeImage) -> None:
    key = str(alone.identity)
    with Shell(alone.port, key) as shell:
        with reach(linux_board, alone.port, key) as there:
            active = there.hello.image_id
            # most of it at once, the rest by writing it, as root may to the last block
            shell.run(
                "fallocate -l $(df -k / | awk 'END{print $4 * 1024}') /fill; "
                "dd if=/dev/zero of=/fill1 bs=1M; sync; rm -rf /var/spare"
            )
            with pytest.raises(BudgetError, match="a slot of"):
                put(there, make_image(32), linux_board)
            assert there.device.hello().image_id == active
        shell.run(f"rm -rf {probe(shell).root}/runtime-*; dd if=/dev/zero of=/fill2 bs=64k")
        with (
            pytest.raises(WriteError, match="cannot be written|are free"),
            reach(linux_board, alone.port, key),
        ):
            pass
        shell.run("rm /fill /fill1 /fill2")
        with reach(linux_board, alone.port, key) as there:
            assert there.hello.image_id == active
            assert put(there, make_image(32), linux_board).verified


def test_a_disk_that_became_read_only(
    alone: LinuxEmulator, linux_board: Board, make_image: MakeImage
) -> None:
    key = str(alone.identity)
    with Shell(alone.port, key) as shell:
        with reach(linux_board, alone.port, key) as there:
            shell.run("mount -o remount,ro /")
            with pytest.raises(WriteError, match="cannot be written"):
                put(there, make_image(33), linux_board)
        with (
            pytest.raises(WriteError, match="cannot be written"),
            reach(linux_board, alone.port, key),
        ):
            pass
