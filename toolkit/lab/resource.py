"""What a labgrid place has, and the port by which that is reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qedge.runtime.errors import NoBoardError, SeveralBoardsError, UsageError
from qedge.toolkit.board import Board

PREFIX = "labgrid:"
NETWORK = "NetworkService"
SERIAL = ("NetworkSerialPort", "RawSerialPort", "USBSerialPort")
_SCHEMES = {"raw": "socket://{}:{}", "rfc2217": "rfc2217://{}:{}?ign_set_control"}


@dataclass(frozen=True, slots=True)
class Resource:
    name: str
    kind: str
    arguments: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)
    path: str = ""  # of its exporter: exporter/group

    def port(self, where: str) -> str:
        """As -p has it. UsageError when it cannot be reached from here."""
        given = self.arguments
        if self.extra.get("proxy_required"):
            raise UsageError(
                f"{where}: is reached by way of {self.extra.get('proxy')} only (its exporter "
                "is isolated), which qedge cannot; run it there"
            )
        if self.kind == NETWORK:
            host = str(given["address"])
            if "%" in host:
                raise UsageError(f"{where}: {host} goes through an interface, which ssh cannot")
            host = f"[{host}]" if ":" in host else host
            return f"{given['username']}@{host}:{given.get('port') or 22}"
        if self.kind == "NetworkSerialPort":
            protocol = given.get("protocol") or "rfc2217"
            if protocol not in _SCHEMES:
                raise UsageError(f"{where}: protocol {protocol} is not one of raw, rfc2217")
            return _SCHEMES[protocol].format(given["host"], given["port"])
        return str(given["port"])


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
