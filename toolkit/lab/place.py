"""Ports from labgrid's places and environment files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from qedge.runtime.errors import (
    NoBoardError,
    QedgeError,
    SeveralBoardsError,
    UsageError,
)
from qedge.runtime.text import printable
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

    try:
        if find_spec("labgrid") is not None:
            return None
    except ValueError:  # imported, and found unusable
        pass
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

    if os.environ.get("LG_PROXY"):
        raise UsageError(f"{port}: LG_PROXY is set, and qedge reaches boards directly only")
    address = coordinator or os.environ.get("LG_COORDINATOR") or COORDINATOR
    claim = Claim(_named(port.removeprefix(PREFIX)), address, board)
    try:
        found = to_its_end(claim.take())
        say(printable(f"{PREFIX}{claim.place}: {found}, {claim.how}"))
        yield found
    except BaseException:
        try:
            claim.give_back()
        except QedgeError as another:  # what went wrong first is what is raised
            say(str(another))
        raise
    claim.give_back()


@contextmanager
def environment_port(
    board: Board,
    environment: Any,
    say: Say = lambda text: None,
    coordinator: str | None = None,
) -> Iterator[str | None]:
    """The same for a labgrid environment: a RemotePlace of its target is taken, or the target's
    own resource used. The target is the one with the board's name, else `main`, else the only
    one. environment: a file's path, or labgrid's own of a file that is loaded already.
    coordinator: goes before the file's own. Errors as of `real_port`."""
    loaded = _loaded(environment)
    path = loaded.config_file
    from labgrid import target_factory

    targets = loaded.config.get_targets()
    names = [name for name in (board.name, "main") if name in targets]
    name = names[0] if names else next(iter(targets), "")
    if not names and len(targets) != 1:
        raise UsageError(
            f"{path}: its targets are {', '.join(targets) or 'none'}; name one "
            f"{board.name} or main"
        )
    resources, _ = target_factory.normalize_config(targets[name])
    where = f"{path}: target {name}"
    if places := [str(place) for place in resources.get("RemotePlace", {})]:
        if len(places) > 1:
            raise SeveralBoardsError(f"{where}: has places {', '.join(places)}; leave one")
        address = coordinator or environment_coordinator(loaded)
        with real_port(board, PREFIX + places[0], say, address) as port:
            yield port
        return
    try:
        yield _local(loaded.get_target(name), board, where).port(where)
    finally:
        if loaded is not environment:
            loaded.cleanup()


def environment_coordinator(environment: Any) -> str | None:
    """The coordinator that a labgrid environment names."""
    options = _loaded(environment).config.data.get("options", {})
    return options.get("coordinator_address") or None


def _loaded(environment: Any) -> Any:
    """A file's environment. It is loaded once only: what it imports must not be twice."""
    if not isinstance(environment, str):
        return environment
    if need := missing():
        raise UsageError(f"{environment}: {need}")
    from labgrid import Environment
    from labgrid.exceptions import InvalidConfigError, NoConfigFoundError

    try:
        return Environment(environment)
    except (OSError, InvalidConfigError, NoConfigFoundError) as error:
        raise UsageError(f"{environment}: {error}; give a labgrid environment file") from error


def _local(target: Any, board: Board, where: str) -> Resource:
    """A resource that needs no coordinator. One behind USB is waited for."""
    made = {
        (one.name, type(one).__name__): one
        for one in target.resources
        if type(one).__name__ in (NETWORK, *SERIAL)
    }
    plain = [Resource(name, kind, _arguments(one)) for (name, kind), one in made.items()]
    chosen = choose(plain, board, None, where)
    found = made[chosen.name, chosen.kind]
    if not found.avail:
        from labgrid.exceptions import NoResourceFoundError

        try:
            target.await_resources([found])
        except NoResourceFoundError as error:
            raise NoBoardError(f"{where}: {error}; is the board plugged in?") from error
    return Resource(chosen.name, chosen.kind, _arguments(found))


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
