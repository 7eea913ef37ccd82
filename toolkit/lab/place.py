"""Ports from labgrid's places and environment files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from qedge.runtime.errors import QedgeError, SeveralBoardsError, UsageError
from qedge.toolkit.board import Board
from qedge.toolkit.lab.resource import NETWORK, PREFIX, SERIAL, Resource, choose

COORDINATOR = "127.0.0.1:20408"  # labgrid's own default
Say = Callable[[str], None]


def is_place(port: str | None) -> bool:
    """Whether a port names a place of a coordinator."""
    return port is not None and port.startswith(PREFIX)


def missing() -> str | None:
    """What to install; None: labgrid is there."""
    from importlib.util import find_spec

    if find_spec("labgrid") is not None:
        return None
    return "labgrid is not installed; pip install 'qedge[lab]'"


@contextmanager
def real_port(
    board: Board, port: str | None, say: Say = lambda text: None, coordinator: str | None = None
) -> Iterator[str | None]:
    """The port that a place stands for, which is ours until the end of `with`; any other port
    as it is. A place that this user holds already is used, and not released.

    port: `labgrid:PLACE`, `labgrid:PLACE/RESOURCE` where a place has several, `labgrid:+TOKEN`
    for what a reservation was given, `labgrid:+` for LG_TOKEN's and `labgrid:` for LG_PLACE.
    coordinator: HOST[:PORT]; else LG_COORDINATOR's, else this machine's. NoBoardError when the
    place is not to be had, SeveralBoardsError when it has several boards, UsageError."""
    if not is_place(port):
        yield port
        return
    assert port is not None
    if need := missing():
        raise UsageError(f"{port}: {need}")
    from qedge.toolkit.lab.claim import Claim  # and asyncio: not for those with a plain port
    from qedge.toolkit.lab.session import to_its_end

    address = coordinator or os.environ.get("LG_COORDINATOR") or COORDINATOR
    claim = Claim(_named(port.removeprefix(PREFIX)), address, board)
    try:
        found = to_its_end(claim.take())
        say(f"{PREFIX}{claim.place}: {found}, {claim.how}")
        yield found
    except BaseException as error:
        try:
            claim.give_back()
        except QedgeError as another:  # what went wrong first is the one to tell
            if not isinstance(error, QedgeError):
                say(str(another))
        raise
    claim.give_back()


@contextmanager
def environment_port(
    board: Board, path: str, say: Say = lambda text: None, coordinator: str | None = None
) -> Iterator[str | None]:
    """The same for a labgrid environment file: a RemotePlace of its target is taken, or the
    target's own resource used. The target is the one with the board's name, else `main`, else
    the only one. coordinator: goes before the file's own."""
    if need := missing():
        raise UsageError(f"{path}: {need}")
    from labgrid import Environment, target_factory
    from labgrid.exceptions import InvalidConfigError

    try:
        environment = Environment(str(path))
        targets = environment.config.get_targets()
        names = [name for name in (board.name, "main") if name in targets]
        if not names and len(targets) == 1:
            names = list(targets)
        if not names:
            raise UsageError(
                f"{path}: has no target {board.name} or main ({', '.join(targets) or 'none'})"
            )
        resources, _ = target_factory.normalize_config(targets[names[0]])
    except (OSError, InvalidConfigError) as error:
        raise UsageError(f"{path}: {error}; give a labgrid environment file") from error
    if places := list(resources.get("RemotePlace", {})):
        if len(places) > 1:
            raise SeveralBoardsError(f"{path}: target {names[0]} has {', '.join(places)}")
        address = coordinator or environment.config.data.get("options", {}).get(
            "coordinator_address"
        )
        with real_port(board, PREFIX + str(places[0]), say, address) as port:
            yield port
        return
    try:
        target = environment.get_target(names[0])
        assert target is not None
        made = [
            Resource(str(one.name), type(one).__name__, _arguments(one))
            for one in target.resources
            if type(one).__name__ in (NETWORK, *SERIAL)
        ]
        chosen = choose(made, board, None, f"{path}: target {names[0]}")
        if chosen.kind == "USBSerialPort":  # found by udev, which labgrid watches
            target.await_resources([target.get_resource(chosen.kind, name=chosen.name)])
            chosen = Resource(
                chosen.name,
                chosen.kind,
                _arguments(target.get_resource(chosen.kind, name=chosen.name)),
            )
        yield chosen.port(str(path))
    finally:
        environment.cleanup()


def _arguments(resource: Any) -> dict[str, Any]:
    names = ("host", "port", "protocol", "address", "username")
    return {name: getattr(resource, name) for name in names if hasattr(resource, name)}


def _named(name: str) -> str:
    """The name with what the environment stands in for."""
    if name == "+":
        token = os.environ.get("LG_TOKEN")
        if not token:
            raise UsageError(f"{PREFIX}+ means the reservation in LG_TOKEN, which is not set")
        return f"+{token}"
    name = name or os.environ.get("LG_PLACE", "")
    if not name:
        raise UsageError(f"{PREFIX} needs a place: {PREFIX}PLACE, or set LG_PLACE")
    return name
