"""What a labgrid place has, and the port by which that is reached."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any

from qedge.runtime.errors import NoBoardError, SeveralBoardsError, UsageError
from qedge.runtime.text import printable
from qedge.toolkit.board import Board

PREFIX = "labgrid:"
NETWORK = "NetworkService"
SERIAL = ("NetworkSerialPort", "RawSerialPort", "USBSerialPort")
_SCHEMES = {"raw": "socket://{}:{}", "rfc2217": "rfc2217://{}:{}?ign_set_control"}
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")


@dataclass(frozen=True, slots=True)
class Resource:
    name: str
    kind: str
    arguments: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)
    path: str = ""  # of its exporter: exporter/group

    def port(self, where: str) -> str:
        """As -p has it. UsageError when it cannot be reached from here. A coordinator speaks
        for other people: of it a host, a number and a user are taken, in letters that are
        nothing else, and never a path or another kind of port."""
        given = self.arguments
        if self.extra.get("proxy_required"):
            raise UsageError(
                f"{where}: is reached by way of {_shown(self.extra.get('proxy'))} only (its "
                "exporter is isolated), which qedge cannot; run it there"
            )
        if self.kind == NETWORK:
            host = self._host("address", where)
            user = str(given.get("username"))
            if not _USER.fullmatch(user):
                raise UsageError(f"{where}: its user is {_shown(user)}, which is not valid")
            return f"{user}@{host}:{self._number(where, 22)}"
        if self.kind == "NetworkSerialPort":
            protocol = given.get("protocol") or "rfc2217"
            if protocol not in _SCHEMES:
                raise UsageError(
                    f"{where}: protocol {_shown(protocol)} is not one of raw, rfc2217"
                )
            return _SCHEMES[protocol].format(self._host("host", where), self._number(where))
        if self.path:
            raise UsageError(
                f"{where}: its {self.kind} is a path on {_shown(self.path)}'s own machine; "
                "qedge opens none that a coordinator names"
            )
        return str(given["port"])

    def _host(self, key: str, where: str) -> str:
        host = str(self.arguments.get(key))
        if "%" in host:
            raise UsageError(
                f"{where}: {_shown(host)} goes through an interface, which ssh cannot"
            )
        try:
            if ipaddress.ip_address(host).version == 6:
                return f"[{host}]"
        except ValueError:
            if not _HOST.fullmatch(host):
                raise UsageError(
                    f"{where}: its host is {_shown(host)}, which is not valid"
                ) from None
        return host

    def _number(self, where: str, otherwise: int = 0) -> int:
        try:
            number = int(self.arguments.get("port") or otherwise)
        except (TypeError, ValueError):
            number = 0
        if number not in range(1, 65536):
            raise UsageError(
                f"{where}: its port is {_shown(self.arguments.get('port'))}, which is not valid"
            )
        return number


def _shown(value: Any) -> str:
    return printable(str(value))[:200]


def choose(found: list[Resource], board: Board, name: str | None, where: str) -> Resource:
    """The resource by which a board is reached: its network if it has Linux, else a serial
    line."""
    named = [one for one in found if name in (None, one.name)]
    for kinds in ((NETWORK,), SERIAL) if board.linux is not None else (SERIAL,):
        fit = [one for one in named if one.kind in kinds]
        if len(fit) > 1:
            names = ", ".join(f"{one.name} ({one.path or one.kind})" for one in fit)
            raise SeveralBoardsError(
                f"{where}: has {len(fit)} ways to a board: {names}; choose one as "
                f"{PREFIX}PLACE/NAME (labgrid-client add-named-match gives names)"
            )
        if fit:
            return fit[0]
    there = ", ".join(f"{one.name} ({one.kind})" for one in found) or "none of use"
    need = f"{NETWORK} or {SERIAL[0]}" if board.linux is not None else SERIAL[0]
    raise NoBoardError(
        f"{where}: a {board.name} needs a {need}{f' named {name}' if name else ''}, the "
        f"resources are: {there}; add a match to the place"
    )
