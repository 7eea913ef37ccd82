"""The agent as a service of a board's systemd: an own user, a read-only system, a memory limit
from the image's plan. It answers on a serial line. Its images lie in STATE, apart from those
that an ssh user keeps at home; what root's unit starts lies in RUNTIMES, where only root
writes.
"""

from __future__ import annotations

import re
from string import Template

from qedge.runtime._engine import Image
from qedge.runtime.errors import NoBoardError, UsageError, WriteError
from qedge.runtime.session import RESIDENT_BYTES
from qedge.runtime.text import printable
from qedge.toolkit.board import Board, linux_of
from qedge.toolkit.linux.shell import script
from qedge.toolkit.linux.ssh import NotStarted, Shell

USER, STATE, RUNTIMES = "qedge", "/var/lib/qedge", "/opt/qedge"
UNIT = "/etc/systemd/system/qedge.service"
LINE = "/dev/serial0"  # Raspberry Pi OS's name of the port on the header
_NO_SYSTEMD = 71
_LINE = re.compile(r"/dev/[A-Za-z0-9_./:+-]+")

# Which directive does what: systemd.exec(5), systemd.resource-control(5).
_UNIT = Template("""\
[Unit]
Description=qedge: a language model on this board's serial line ($board)
StartLimitIntervalSec=0

[Service]
WorkingDirectory=$runtime
ExecStart=$command
User=$user
Group=$user
SupplementaryGroups=dialout
StateDirectory=qedge
StateDirectoryMode=0750
Restart=always
RestartSec=3
MemoryMax=$memory
MemorySwapMax=0
TasksMax=$tasks
DevicePolicy=closed
DeviceAllow=$line rw
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
PrivateTmp=yes
PrivateNetwork=yes
IPAddressDeny=any
RestrictAddressFamilies=none
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
UMask=0027

[Install]
WantedBy=multi-user.target
""")


def check_line(line: str) -> None:
    """UsageError for a name that the unit would take for more than a line's."""
    if not _LINE.fullmatch(line):
        raise UsageError(f"--service {printable(line)}: no serial line's name; give /dev/…")


def memory_limit(image: Image) -> int:
    """Bytes for MemoryMax: the image's pages, its arena, and a runtime."""
    return int(image.bytes + image.plan["arena_bytes"] + RESIDENT_BYTES)


def unit(board: Board, python: str, runtime: str, image: Image, line: str = LINE) -> str:
    """The unit's text. python: a program's full path; runtime: the name of its folder.
    UsageError as of `check_line`."""
    check_line(line)
    agent = [python, "-E", "-s", "-m", "qedge.runtime.agent", "--root", STATE]
    agent += ["--board", board.name, "--serial", line]
    return _UNIT.substitute(
        board=board.name,
        runtime=f"{RUNTIMES}/{runtime}",
        command=" ".join(agent),
        user=USER,
        memory=memory_limit(image),
        tasks=4 + 2 * linux_of(board).cores,
        line=line,
    )


def make_user(shell: Shell) -> None:
    """Makes the service's user and folders."""
    _as_root(shell, "user", b"", (USER, STATE, RUNTIMES))


def enable(shell: Shell, text: str) -> None:
    """Writes the unit, and starts it, now and at each start of the board."""
    _as_root(shell, "unit", text.encode(), (UNIT,))


def _as_root(shell: Shell, name: str, data: bytes, words: tuple[str, ...]) -> None:
    try:
        ended = shell.run(script(name), data, words, user="root")
        code, said = ended.code, ended.complaints
    except NotStarted as error:  # sudo's complaint
        code, said = 1, error.said
    if code == _NO_SYSTEMD:
        raise NoBoardError(
            f"{shell.name}: has no systemd, and so no services; leave --service out"
        )
    if code:
        raise WriteError(
            f"{shell.name}: the service could not be set up ({said or code}); it needs root, "
            "or sudo without a password"
        )
