"""A place that is taken for a while: acquired, its board's port found, released."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from qedge.runtime.errors import NoBoardError, SeveralBoardsError, WriteError
from qedge.toolkit.board import Board
from qedge.toolkit.files import cache_folder
from qedge.toolkit.lab.resource import NETWORK, PREFIX, Resource, choose
from qedge.toolkit.lab.session import ANSWER_SECONDS, reservations, session_with, to_its_end

DEVICE_SECONDS = 10.0  # until an exporter has a port for a board, as labgrid's own clients
_LOOK_SECONDS = 0.1


class Claim:
    """A place that is taken, and what is to be given back."""

    def __init__(self, name: str, address: str, board: Board) -> None:
        self._name, self._address, self._board = name, address, board
        self.place = name
        self.how = ""
        self._resource: str | None = None
        self._ours = False  # or may be
        self._me = ""
        self._lock: Any = None

    async def take(self) -> str:
        """Acquires the place unless this user has it, and finds its board's port."""
        async with session_with(self._address) as session:
            self._me = f"{session.gethostname()}/{session.getuser()}"
            place = await self._find(session)
            self.place = place.name
            before = self._lock_here()
            if place.acquired and self._me not in (place.acquired, *place.allowed):
                raise self._held(place)
            if not place.acquired:
                await self._acquire(session, place)
                self.how = "taken"
            elif before.get("changed") == place.changed:  # a qedge that was killed had taken it
                self._ours = True
                self.how = "taken (the one that took it before ended without giving it back)"
            else:
                self.how = f"held by {place.acquired} before, and not released afterwards"
            if self._ours:
                self._record({"process": os.getpid(), "changed": place.changed})
            return await self._port(session, place)

    def give_back(self) -> None:
        """Releases the place if it was taken here. NoBoardError, and how to do it by hand."""
        try:
            if self._ours:
                to_its_end(self._release())
                self._ours = False
                self._record({})
        finally:
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    async def _release(self) -> None:
        from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

        try:
            async with session_with(self._address) as session:
                await session.stub.ReleasePlace(
                    # from us: if it was taken from us meanwhile, it is not ours to release
                    messages.ReleasePlaceRequest(placename=self.place, fromuser=self._me),
                    timeout=ANSWER_SECONDS,
                )
        except NoBoardError as error:
            raise NoBoardError(
                f"{PREFIX}{self.place}: was not released ({error}); release it with "
                f"labgrid-client -p {self.place} release"
            ) from error

    async def _find(self, session: Any) -> Any:
        """The place of that name, alias or reservation, never of a part of a name."""
        places = session.places
        if self._name.startswith("+"):
            token, _, resource = self._name[1:].partition("/")
            self._resource = resource or None
            given = [one for one in places.values() if one.reservation == token]
            if len(given) == 1:
                return given[0]
            names = ", ".join(sorted(one.name for one in given))
            if given:
                raise SeveralBoardsError(
                    f"{PREFIX}+{token}: was given {names}; choose one by its name"
                )
            known = [one for one in await reservations(session) if one.token == token]
            state = f"is {known[0].state.name}" if known else "does not exist"
            raise NoBoardError(
                f"{PREFIX}+{token}: the reservation {state} and has no place; wait for it with "
                f"labgrid-client wait {token}, or make one with labgrid-client reserve"
            )
        known_as = {
            alias.removeprefix(f"{session.getuser()}:"): one
            for one in places.values()
            for alias in one.aliases
        } | places
        if self._name in known_as:
            return known_as[self._name]
        head, _, tail = self._name.rpartition("/")
        if head in known_as:
            self._resource = tail
            return known_as[head]
        near = difflib.get_close_matches(self._name, known_as, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known_as) or 'none'}"
        raise NoBoardError(
            f"{PREFIX}{self._name}: the coordinator {self._address} has no such place; {hint}"
        )

    async def _acquire(self, session: Any, place: Any) -> None:
        import grpc
        from labgrid.remote.client import UserError
        from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

        try:
            session.check_matches(place)
        except UserError as error:
            raise NoBoardError(
                f"{PREFIX}{place.name}: {' '.join(error.args)}; start its labgrid-exporter"
            ) from error
        self._ours = True  # as far as we know, if the answer does not come
        request = messages.AcquirePlaceRequest(placename=place.name)
        try:
            await session.stub.AcquirePlace(request, timeout=ANSWER_SECONDS)
        except grpc.aio.AioRpcError as error:
            refused = (
                grpc.StatusCode.FAILED_PRECONDITION,
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.INVALID_ARGUMENT,
            )
            if error.code() in refused:
                self._ours = False
            await session.sync_with_coordinator()
            raise await self._refused(session, place, error) from error
        await session.sync_with_coordinator()

    async def _refused(self, session: Any, place: Any, error: Any) -> NoBoardError:
        """Why the coordinator did not give us the place."""
        if place.acquired and not self._ours:
            return self._held(place)
        if place.reservation:
            for one in await reservations(session):
                if one.token == place.reservation and one.owner != self._me:
                    return NoBoardError(
                        f"{PREFIX}{place.name}: is reserved for {one.owner}, you are "
                        f"{self._me}; wait with labgrid-client reserve --wait, or ask for it"
                    )
        others = sorted(
            {
                str(one.acquired)
                for exporter, groups in session.resources.items()
                for group, rows in groups.items()
                for name, one in rows.items()
                if one.acquired and place.hasmatch((exporter, group, one.cls, name))
            }
        )
        why = f"its resources are used by place {', '.join(others)}" if others else ""
        return NoBoardError(f"{PREFIX}{place.name}: {why or error.details()}; try again later")

    def _held(self, place: Any) -> NoBoardError:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(place.changed))
        return NoBoardError(
            f"{PREFIX}{place.name}: is held by {place.acquired}, at least since {since}, "
            f"you are {self._me}; wait for it with labgrid-client reserve --wait, or ask for it"
        )

    async def _port(self, session: Any, place: Any) -> str:
        where = f"{PREFIX}{place.name}"
        last = time.monotonic() + DEVICE_SECONDS
        while True:
            found = _resources(session, place)
            chosen = choose([one for one, _ in found], self._board, self._resource, where)
            if next(there for one, there in found if one is chosen):
                return chosen.port(where)
            if time.monotonic() > last:
                raise NoBoardError(
                    f"{where}: its exporter has no port for {chosen.name}; is the board "
                    "plugged in and switched on?"
                )
            await asyncio.sleep(_LOOK_SECONDS)

    def _lock_here(self) -> dict[str, Any]:
        """One qedge a place: to the coordinator all of this user's look the same, and a place
        that one of them took would seem to be held by the user. What the last one left."""
        import fcntl

        digest = hashlib.sha256(f"{self._address}\n{self.place}\n{self._me}".encode())
        path = Path(cache_folder()) / "labgrid" / f"{digest.hexdigest()[:16]}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
        except OSError as error:
            raise WriteError(f"{path}: {error.strerror}; set QEDGE_CACHE") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            process = self._read().get("process")
            self._lock.close()
            self._lock = None
            raise NoBoardError(
                f"{PREFIX}{self.place}: another qedge of yours uses it"
                f"{f' (process {process})' if process else ''}; wait until it ends"
            ) from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        self._lock.seek(0)
        try:
            return dict(json.loads(self._lock.read()))
        except (ValueError, TypeError):
            return {}

    def _record(self, fields: dict[str, Any]) -> None:
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(json.dumps(fields))
        self._lock.flush()


def _resources(session: Any, place: Any) -> list[tuple[Resource, bool]]:
    """What was acquired with a place, and whether it can be used yet. (labgrid's own list of it
    has one of each name only, and would choose one of two boards.)"""
    found = []
    for exporter, group, kind, name in place.acquired_resources:
        entry = session.resources.get(exporter, {}).get(group, {}).get(name)
        if entry is None or entry.data.get("cls") != kind:
            raise NoBoardError(
                f"{PREFIX}{place.name}: {exporter}/{group}/{name} is gone; is its "
                "labgrid-exporter running?"
            )
        rename = place.getmatch((exporter, group, kind, name)).rename
        one = Resource(rename or name, kind, entry.args, entry.extra, f"{exporter}/{group}")
        found.append((one, entry.avail and (kind == NETWORK or bool(entry.args.get("port")))))
    return found
