"""Two slots for images in a folder, and the records that say which one is active. Whatever is
interrupted, the active slot stays what it was, and the other one what it was until then.

    a.qimg, b.qimg      images
    a.part, b.part      what is being sent to a slot: a file of its own, so that an image that
                        somebody runs is never written; activation renames it
    a.record, b.record  of a slot whose image was verified and tested: its sequence number, id,
                        size and security counter; the highest sequence is active
    a.pending           beside an image that was put on the board's card while the board was off
                        (JSON: id, bytes, tries): the agent verifies, tests and activates it
    pending.error       why the last such image was not activated, or an active one given up
    floor               the largest security counter that was ever accepted
    id                  the board's, when the device tree has no serial number
    lock                held by whoever writes

A record never stands for other bytes than were tested: it goes before the file is renamed over
its slot's image, and comes back by an atomic rename after. A pending mark goes before its slot
is written, and after its slot has its record.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from qedge.runtime.agent.lock import FolderLock
from qedge.runtime.agent.numbers import (
    LINK_ACTIVE_SLOT,
    LINK_LOCKED,
    LINK_OLDER,
    LINK_RANGE,
)
from qedge.runtime.agent.sync import sync_descriptor, sync_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAMES = ("a", "b")
ID_BYTES = 32
ERROR_NAME = "pending.error"
_FIELDS = ("sequence", "bytes", "id", "counter")  # of a record
SMALL_BYTES = 4096  # of a record or mark
TRIES_LIMIT = 1 << 20


class SlotError(Exception):
    """`code` is the link's number of it (docs/link.md)."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text or f"link error {code}")
        self.code, self.text = code, text


class Slots:
    """The slots in a folder, which is made when it is not there, for its owner alone."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._lock = FolderLock(os.path.join(folder, "lock"))
        self._files: dict[int, int] = {}
        self._room = 0  # bytes that an image may have, when the first of it was written

    def _path(self, slot: int, end: str) -> str:
        if type(slot) is not int or slot not in (0, 1):
            raise SlotError(LINK_RANGE)
        return os.path.join(self.folder, f"{NAMES[slot]}.{end}")

    def path(self, slot: int) -> str:
        """A slot's image."""
        return self._path(slot, "qimg")

    def part_path(self, slot: int) -> str:
        """What is being sent to a slot."""
        return self._path(slot, "part")

    def record(self, slot: int) -> dict[str, Any]:
        """A slot's record; empty when it has none that can be read."""
        try:
            found = _checked(_small(self._path(slot, "record")))
            numbers = found["sequence"], found["bytes"], found.get("counter", 0)
            if (
                all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
                and numbers[0] > 0
                and 0 < numbers[1] <= os.path.getsize(self.path(slot))
                and len(bytes.fromhex(found["id"])) == ID_BYTES
            ):
                return found
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return {}

    def pending_path(self, slot: int) -> str:
        return self._path(slot, "pending")

    def pending(self) -> int | None:
        """The slot with a pending mark; None, quickly, when there is none."""
        return next((n for n in (0, 1) if os.path.exists(self.pending_path(n))), None)

    def try_pending(self, slot: int) -> tuple[str, int]:
        """A pending mark's image id, and how often it was tried before; counts this try, on
        the disk. ValueError for a mark that cannot be read."""
        import json

        path = self.pending_path(slot)
        found = _small(path)
        tries, image_id = found.get("tries", 0), found.get("id")
        if type(tries) is not int or not 0 <= tries < TRIES_LIMIT:
            raise ValueError("its pending mark counts no tries")
        if not isinstance(image_id, str) or len(bytes.fromhex(image_id)) != ID_BYTES:
            raise ValueError("its pending mark names no image")
        self._replace(path, json.dumps({"id": image_id, "tries": tries + 1}))
        return image_id, tries

    def put_pending(self, slot: int, image_id: str) -> None:
        """Marks a slot's image as one to be activated."""
        import json

        self.lock()
        self._replace(self.pending_path(slot), json.dumps({"id": image_id, "tries": 0}))

    def end_pending(self, slot: int, reason: str = "") -> None:
        """Removes a pending mark; a reason for not taking its image up is kept first."""
        self.lock()
        if reason:
            self.keep_reason(reason)
        gone = [self.pending_path(slot)]
        gone += [] if reason else [os.path.join(self.folder, ERROR_NAME)]
        for path in gone:
            _remove(path)
        sync_folder(self.folder)

    def keep_reason(self, reason: str) -> None:
        """Keeps why an image was not activated, until one is."""
        text = reason.encode("ascii", "replace").decode()[:500] + "\n"
        self._replace(os.path.join(self.folder, ERROR_NAME), text)

    def pending_error(self) -> str:
        """Why the last image that was put on the card was not activated, or the active one was
        given up; empty: nothing was wrong."""
        try:
            with open(os.path.join(self.folder, ERROR_NAME), encoding="ascii") as file:
                return file.read(500).strip()
        except (OSError, ValueError):
            return ""

    def active(self) -> int | None:
        """The slot with the highest sequence number; None when no slot has a record."""
        found = [(self.record(slot).get("sequence", 0), slot) for slot in (0, 1)]
        sequence, slot = max(found)
        return slot if sequence else None

    # ---- the floor ----

    def _noted_floor(self) -> int:
        path = os.path.join(self.folder, "floor")
        try:
            with open(path, encoding="ascii") as file:
                noted, _, check = file.read(64).strip().partition(" ")
            if check != _check({"counter": noted}) or not 0 <= int(noted) < 1 << 32:
                raise ValueError
        except FileNotFoundError:
            return 0
        except ValueError:  # one that was spoilt must not lower it
            text = f"{path} holds no security counter; write the one that was accepted last"
            raise SlotError(LINK_OLDER, text) from None
        return int(noted)

    def floor(self) -> int:
        """The least security counter that is taken: the largest that was ever accepted."""
        records = (int(self.record(slot).get("counter", 0)) for slot in (0, 1))
        return max(self._noted_floor(), *records)

    def raise_floor(self, counter: int) -> None:
        """Makes the floor at least this."""
        if counter > self._noted_floor():
            text = f"{counter} {_check({'counter': counter})}\n"
            self._replace(os.path.join(self.folder, "floor"), text)

    # ---- room and locks ----

    def capacity(self) -> int:
        """Bytes that an image may have in the slot that is written next: what is free, and what
        lies in that slot."""
        system = os.statvfs(self.folder)
        other = 1 if self.active() == 0 else 0
        there = 0
        for path in (self.path(other), self.part_path(other)):
            try:
                there += os.stat(path).st_blocks * 512
            except OSError:
                continue
        return system.f_bavail * system.f_frsize + there

    def lock(self) -> None:
        """Takes the right to write until `close`; SlotError(LINK_LOCKED) when another has it. A
        process that ends, however it does, loses it."""
        if not self._lock.take():
            raise SlotError(LINK_LOCKED)

    @property
    def locked(self) -> bool:
        return self._lock.held

    def close(self) -> None:
        for number in self._files.values():
            os.close(number)
        self._files.clear()
        self._lock.release()

    # ---- what is being sent ----

    def _part(self, slot: int) -> int:
        """The file of what is sent to a slot, to write."""
        path = self.part_path(slot)
        for name in (self.pending_path(slot), self.part_path(1 - slot)):
            if _remove(name):
                sync_folder(self.folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, 0o600)

    def write(self, slot: int, offset: int, data: bytes) -> None:
        """Bytes of an image at an offset; they are on the disk for certain after `settle`. What
        is out of range is refused before anything is changed."""
        if slot not in self._files:  # else it was looked at, and nobody else could change it
            self._path(slot, "part")
            self._room = self.capacity()
            if not data or not 0 <= offset <= self._room - len(data):
                raise SlotError(LINK_RANGE)
            self.lock()
            if slot == self.active():
                raise SlotError(LINK_ACTIVE_SLOT)
            self._files[slot] = self._part(slot)
        elif not data or not 0 <= offset <= self._room - len(data):
            raise SlotError(LINK_RANGE)
        try:
            _write_all(self._files[slot], data, offset)
        except OSError as error:  # the disk is full: this slot's image was to be replaced
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self.clear(slot):
                raise
            _write_all(self._files[slot], data, offset)

    def forget(self, slot: int) -> None:
        """Removes the record of a slot that is not active."""
        self.lock()
        if slot == self.active():
            raise SlotError(LINK_ACTIVE_SLOT)
        if _remove(self._path(slot, "record")):
            sync_folder(self.folder)

    def clear(self, slot: int) -> bool:
        """Removes a slot's image; whether there was one."""
        self.forget(slot)  # first, or a record might outlive its image
        there = _remove(self.path(slot))
        sync_folder(self.folder)
        return there

    def read(self, slot: int, offset: int, count: int, part: bool = False) -> bytes:
        """Bytes of a slot's image, or of what is being sent to it; fewer when the file ends."""
        path = self.part_path(slot) if part else self.path(slot)
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(count)
        except FileNotFoundError:
            return b""

    def settle(self, path: str) -> None:
        """Syncs a file, and forgets what the system remembers of it, so that what is verified
        is what the disk holds."""
        try:
            number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            sync_descriptor(number)
            if hasattr(os, "posix_fadvise"):
                with suppress(OSError):  # a wish: else what the system remembers is verified
                    os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(number)
        sync_folder(self.folder)

    def activate(
        self, slot: int, image_id: str, size: int, counter: int, path: str | None = None
    ) -> None:
        """Makes a verified and tested file the active image of its slot, at once or not at all;
        whoever wrote has done so then, and the lock is free. path: the file that was
        tested, unless it is what was sent last; size: of the image in it, without a
        signature."""
        import json

        self.lock()
        top = max(self.record(one).get("sequence", 0) for one in (0, 1))
        record = {"sequence": top + 1, "bytes": size, "id": image_id, "counter": counter}
        record["check"] = _check(record)
        if path is None:
            part = self.part_path(slot)
            path = part if os.path.exists(part) else self.path(slot)
        if path != self.path(slot):
            if _remove(self._path(slot, "record")):
                sync_folder(self.folder)
            os.replace(path, self.path(slot))
            sync_folder(self.folder)
        self._replace(self._path(slot, "record"), json.dumps(record))
        self.raise_floor(counter)
        _remove(os.path.join(self.folder, ERROR_NAME))
        self.close()

    def _replace(self, path: str, text: str) -> None:
        """A small file's new content, at once or not at all."""
        new = path + ".new"
        _remove(new)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, 0o600), "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            sync_descriptor(file.fileno())
        os.replace(new, path)
        sync_folder(self.folder)

    def board_id(self) -> bytes:
        """8 bytes: the serial number in the device tree, or a random number kept here."""
        for path in (
            "/proc/device-tree/serial-number",
            "/sys/firmware/devicetree/base/serial-number",
        ):
            try:
                with open(path, encoding="ascii") as file:
                    found = bytes.fromhex(file.read().strip("\0\n ").rjust(16, "0"))[-8:]
                if any(found):
                    return found
            except (OSError, ValueError):
                continue
        path = os.path.join(self.folder, "id")
        damaged = False
        try:
            with open(path, "rb") as file:
                found = file.read(9)
            if len(found) == 8:
                return found
            damaged = True
        except FileNotFoundError:
            pass
        new = f"{path}.{os.urandom(8).hex()}.new"  # another agent may start at the same time
        with open(new, "xb") as file:
            file.write(os.urandom(8))
            file.flush()
            sync_descriptor(file.fileno())
        try:
            if damaged:
                os.replace(new, path)
            else:
                os.link(new, path)  # the first one's stays
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(new, path)
        _remove(new)
        sync_folder(self.folder)
        with open(path, "rb") as file:
            return file.read(8)


def _small(path: str) -> dict[str, Any]:
    """The JSON object in a small file. OSError, ValueError."""
    import json

    with open(path, encoding="ascii") as file:
        text = file.read(SMALL_BYTES + 1)
    if len(text) > SMALL_BYTES:
        raise ValueError(f"{os.path.basename(path)} is too large")
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(f"{os.path.basename(path)} is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"{os.path.basename(path)} is not a record")
    return found


def _check(record: dict[str, Any]) -> str:
    """A short hash of a record's other fields: a bit that flips in it must not name another
    image, or another order."""
    import hashlib

    text = " ".join(f"{name}={record.get(name)}" for name in _FIELDS)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    """A record as it is, ValueError when it is not as it was written. Those of the first
    version had no check."""
    if set(record) - {"check"} != set(_FIELDS) or (
        "check" in record and record["check"] != _check(record)
    ):
        raise ValueError("it is not as it was written")
    return record


def _write_all(number: int, data: bytes, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(number, data[done:], offset + done)


def _remove(path: str) -> bool:
    """Whether there was such a file."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
