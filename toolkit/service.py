"""The agent as a service of a board's systemd: an own user, a read-only system, a memory limit
from the image's plan. It answers on a serial line; its images lie in STATE, apart from those
that an ssh user keeps at home.
"""

from __future__ import annotations

import shlex
from string import Template

from qedge.runtime._engine import Image
from qedge.runtime.errors import NoBoardError, WriteError
from qedge.runtime.session import RESIDENT_BYTES
from qedge.toolkit.board import Board, linux_of
from qedge.toolkit.ssh import Shell

USER, STATE, UNIT = "qedge", "/var/lib/qedge", "/etc/systemd/system/qedge.service"
LINE = "/dev/serial0"  # Raspberry Pi OS's name of the port on the header
_NO_SYSTEMD = 71

# Which directive does what: systemd.exec(5), systemd.resource-control(5).
_UNIT = Template("""\
[Unit]
Description=qedge: a language model on this board's serial line ($board)
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
ExecStart=/bin/sh -c $command
User=$user
Group=$user
SupplementaryGroups=dialout
StateDirectory=qedge
StateDirectoryMode=0750
Restart=on-failure
RestartSec=2
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

_ROOT_SCRIPT = """
set -e
command -v systemctl >/dev/null 2>&1 || exit 71
"""
_USER_SCRIPT = f"""{_ROOT_SCRIPT}
id {USER} >/dev/null 2>&1 ||
    useradd --system --user-group --home-dir {STATE} --shell /usr/sbin/nologin {USER}
usermod -aG dialout {USER} 2>/dev/null || true
mkdir -p {STATE}; chown {USER}:{USER} {STATE}; chmod 750 {STATE}
"""


def memory_limit(image: Image) -> int:
    """Bytes for MemoryMax: the image's pages, its arena, and a runtime."""
    return int(image.bytes + image.plan["arena_bytes"] + RESIDENT_BYTES)


def unit(board: Board, python: str, image: Image, line: str = LINE) -> str:
    """The unit's text. python: the shell command that runs the runtime's Python."""
    agent = f"{python} -m qedge.runtime.agent --root {STATE} --board {board.name} "
    agent += f"--serial {shlex.quote(line)}"
    quoted = '"' + agent.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'
    return _UNIT.substitute(
        board=board.name,
        command=quoted.replace("$", "$$"),
        user=USER,
        memory=memory_limit(image),
        tasks=4 + 2 * linux_of(board).cores,
        line=line,
    )


def _as_root(shell: Shell, script: str) -> None:
    ended = shell.run(
        "if [ $(id -u) = 0 ]; then sh -s; else sudo -n sh -s; fi", script.encode()
    )
    if ended.code == _NO_SYSTEMD:
        raise NoBoardError(
            f"{shell.name}: has no systemd, and so no services; leave --service out"
        )
    if ended.code:
        raise WriteError(
            f"{shell.name}: the service could not be set up "
            f"({ended.complaints or ended.code}); it needs root, or sudo without a password"
        )


def make_user(shell: Shell) -> str:
    """Makes the service's user and folder; the command prefix that runs something as it."""
    _as_root(shell, _USER_SCRIPT)
    root = shell.run("id -u").output.strip() == b"0"
    return f"runuser -u {USER} --" if root else f"sudo -n -u {USER}"


def enable(shell: Shell, text: str) -> None:
    """Writes the unit, and starts it, now and at each start of the board."""
    script = f"""{_ROOT_SCRIPT}
cat > {UNIT}.new <<'QEDGE-UNIT'
{text}
QEDGE-UNIT
mv {UNIT}.new {UNIT}; sync
systemctl daemon-reload
systemctl enable qedge.service
systemctl restart qedge.service
"""
    _as_root(shell, script)
