"""The agent as a service: the unit is what systemd takes, and the board is set up by it. The
emulated board has no systemd: programs that note what they are asked for stand in for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from linux.conftest import MakeImage, Prepared

from qedge.runtime.errors import NoBoardError
from qedge.runtime.image import open_image
from qedge.toolkit.board import Board, load
from qedge.toolkit.cli import cli
from qedge.toolkit.device import remote
from qedge.toolkit.device.reach import reach
from qedge.toolkit.emulators.linux import LinuxEmulator
from qedge.toolkit.linux import service
from qedge.toolkit.linux.ssh import Shell

RUNTIME = "runtime-0123456789abcdef"
STAND_INS = r"""
cat > /usr/bin/systemctl <<'X'
#!/bin/sh
echo "$*" >> /systemctl.log
X
cat > /usr/bin/useradd <<'X'
#!/bin/sh
echo 'qedge:x:990:990::/var/lib/qedge:/bin/false' >> /etc/passwd
echo 'qedge:x:990:' >> /etc/group
X
cat > /usr/bin/runuser <<'X'
#!/bin/sh
shift 3; q=
for a in "$@"; do q="$q '$(printf %s "$a" | sed "s/'/'\\\\''/g")'"; done
exec su -s /bin/sh qedge -c "$q"
X
chmod +x /usr/bin/systemctl /usr/bin/useradd /usr/bin/runuser; mkdir -p /etc/systemd/system
chmod 755 /
"""


def test_systemd_finds_no_fault_with_the_unit(make_image: MakeImage, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    text = service.unit(load("pi5"), "/usr/bin/python3", RUNTIME, open_image(make_image(1)))
    (tmp_path / "qedge.service").write_text(text)
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "qedge.service")],
        capture_output=True,
        text=True,
    )
    assert "qedge.service:" not in ended.stderr, ended.stderr


def test_memory_is_limited_to_the_plan(make_image: MakeImage) -> None:
    image = open_image(make_image(1))
    text = service.unit(load("pi5"), "/usr/bin/python3", RUNTIME, image)
    limit = image.bytes + image.plan["arena_bytes"] + (26 << 20)
    assert f"MemoryMax={limit}\n" in text and "MemorySwapMax=0\n" in text
    for line in ("User=qedge", "ProtectSystem=strict", "NoNewPrivileges=yes"):
        assert f"\n{line}\n" in text


def test_a_board_without_systemd_says_so(running: LinuxEmulator, linux_board: Board) -> None:
    with (
        pytest.raises(NoBoardError, match="no systemd"),
        reach(linux_board, running.port, str(running.identity), service=True),
    ):
        pass


def test_the_board_is_set_up_for_its_service(
    prepared: Prepared, linux_board: Board, make_image: MakeImage, tmp_path: Path
) -> None:
    image = make_image(50)
    with LinuxEmulator(linux_board, prepared.disk, overlay=tmp_path / "overlay") as emulator:
        key = str(emulator.identity)
        with Shell(emulator.port, key) as shell:
            shell.run(STAND_INS)
        options = ["-b", linux_board.name, "-p", emulator.port, "--identity", key]
        cli.main(["flash", str(image), *options, "--service", "--json"], standalone_mode=False)
        with Shell(emulator.port, key) as shell:
            asked = shell.run("cat /systemctl.log").output.decode().splitlines()
            assert asked == [
                "daemon-reload",
                "enable qedge.service",
                "restart qedge.service",
            ]
            unit = shell.run(f"cat {service.UNIT}").output.decode()
            assert f"--board {linux_board.name} --serial /dev/serial0" in unit
            owner = shell.run(f"ls -ld {service.STATE}").output.decode().split()
            assert owner[0].startswith("drwxr-x---") and owner[2] == "qedge"
            others = shell.run(f"find {service.RUNTIMES} ! -user root -o -perm /022")
            assert others.output == b"" and others.code == 0
            assert f"WorkingDirectory={service.RUNTIMES}/runtime-" in unit
        with reach(linux_board, emulator.port, key, service=True) as there:
            assert there.hello.image_id == open_image(image).id.hex()
            assert remote.test(there.device)
