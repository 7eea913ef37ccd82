"""Two slots for images in a folder, and the records that say which one is active. Whatever is
interrupted, the active slot stays what it was.

    a.qimg, b.qimg      images, as far as they have come
    a.record, b.record  of a slot whose image was verified and tested: its sequence number, id,
                        size and security counter; the highest sequence is active
    a.pending           beside an image that was put on the board's card while the board was off
                        (JSON: id, bytes, tries): the agent verifies, tests and activates it
    pending.error       why the last such image was not taken up
    id                  the board's, when the device tree has no serial number
    lock                held (flock) by whoever writes

A record is removed before its slot's first write, and comes back by an atomic rename after the
image is synced, so a record never stands for other bytes than were tested. A pending mark goes
before its slot is written, and after its slot has its record.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAMES = ("a", "b")
ID_BYTES = 32
ERROR_NAME = "pending.error"


class SlotError(Exception):
    """`code` is the link's number of it (docs/link.md)."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text or f"link error {code}")
        self.code, self.text = code, text


RANGE, ACTIVE_SLOT, LOCKED = 1, 2, 12


class Slots:
    """The slots in a folder, which is made when it is not there."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        os.makedirs(folder, mode=0o755, exist_ok=True)
        self._lock: int | None = None
        self._files: dict[int, int] = {}

    def path(self, slot: int) -> str:
        return os.path.join(self.folder, f"{NAMES[slot]}.qimg")

    def _record_path(self, slot: int) -> str:
        return os.path.join(self.folder, f"{NAMES[slot]}.record")

    def record(self, slot: int) -> dict[str, Any]:
        """A slot's record; empty when it has none that can be read."""
        import json

        try:
            with open(self._record_path(slot), encoding="ascii") as file:
                found = json.load(file)
            numbers = found["sequence"], found["bytes"], found.get("counter", 0)
            if (
                all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
                and numbers[0] > 0
                and 0 < numbers[1] <= os.path.getsize(self.path(slot))
                and len(bytes.fromhex(found["id"])) == ID_BYTES
            ):
                return dict(found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
        return {}

    def pending_path(self, slot: int) -> str:
        return os.path.join(self.folder, f"{NAMES[slot]}.pending")

    def pending(self) -> int | None:
        """The slot with a pending mark; None, quickly, when there is none."""
        return next((n for n in (0, 1) if os.path.exists(self.pending_path(n))), None)

    def try_pending(self, slot: int) -> tuple[str, int]:
        """A pending mark's image id, and how often it was tried before; counts this try, on
        the disk. ValueError for a mark that cannot be read."""
        import json

        path = self.pending_path(slot)
        with open(path, encoding="ascii") as file:
            found = json.load(file)
        if not isinstance(found, dict) or not isinstance(found.get("id"), str):
            raise ValueError("its pending mark cannot be read")
        tries = found.get("tries", 0)
        if not isinstance(tries, int):
            raise ValueError("its pending mark cannot be read")
        self._replace(path, json.dumps({**found, "tries": tries + 1}))
        return found["id"], tries

    def end_pending(self, slot: int, reason: str = "") -> None:
        """Removes a pending mark; a reason for not taking its image up is kept first."""
        self.lock()
        path = os.path.join(self.folder, ERROR_NAME)
        if reason:
            self._replace(path, reason.encode("ascii", "replace").decode()[:500] + "\n")
        for gone in (self.pending_path(slot), *(() if reason else (path,))):
            _remove(gone)
        self._sync_folder()

    def pending_error(self) -> str:
        """Why the last image that was put on the card was not taken up; empty: it was, or
        there was none."""
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

    def floor(self) -> int:
        """The least security counter that is taken."""
        return max(self.record(slot).get("counter", 0) for slot in (0, 1))

    def capacity(self) -> int:
        """Bytes that an image may have in the slot that is written next."""
        system = os.statvfs(self.folder)
        other = 1 if self.active() == 0 else 0
        try:
            there = os.stat(self.path(other)).st_blocks * 512
        except OSError:
            there = 0
        return system.f_bavail * system.f_frsize + there

    def lock(self) -> None:
        """Takes the right to write until `close`; SlotError(LOCKED) when another has it. A
        process that ends, however it does, loses it."""
        import fcntl

        if self._lock is not None:
            return
        number = os.open(os.path.join(self.folder, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(number)
            raise SlotError(LOCKED) from None
        self._lock = number

    @property
    def locked(self) -> bool:
        return self._lock is not None

    def close(self) -> None:
        for number in self._files.values():
            os.close(number)
        self._files.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self, slot: int) -> int:
        """A slot's file, to write: its record goes first."""
        if slot not in (0, 1):
            raise SlotError(RANGE)
        if slot not in self._files:  # else it was looked at, and nobody else could change it
            self.lock()
            if slot == self.active():
                raise SlotError(ACTIVE_SLOT)
            for path in (self.pending_path(slot), self._record_path(slot)):
                if _remove(path):
                    self._sync_folder()
            self._files[slot] = os.open(self.path(slot), os.O_RDWR | os.O_CREAT, 0o644)
        return self._files[slot]

    def write(self, slot: int, offset: int, data: bytes) -> None:
        """Bytes at an offset; they are on the disk for certain after `settle`."""
        number = self._open(slot)
        done = 0
        while done < len(data):
            done += os.pwrite(number, data[done:], offset + done)

    def read(self, slot: int, offset: int, count: int) -> bytes:
        """Bytes of a slot; fewer when its file ends."""
        if slot not in (0, 1):
            raise SlotError(RANGE)
        try:
            with open(self.path(slot), "rb") as file:
                file.seek(offset)
                return file.read(count)
        except FileNotFoundError:
            return b""

    def settle(self, slot: int) -> None:
        """Syncs a slot's file, and forgets what the system remembers of it, so that what is
        verified is what the disk holds."""
        try:
            number = os.open(self.path(slot), os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            os.fsync(number)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(number)
        self._sync_folder()

    def activate(self, slot: int, image_id: str, size: int, counter: int) -> None:
        """Makes a verified and tested slot the active one, at once or not at all; whoever wrote
        has done so then, and the lock is free."""
        import json

        self.lock()
        top = max(self.record(one).get("sequence", 0) for one in (0, 1))
        record = {"sequence": top + 1, "bytes": size, "id": image_id, "counter": counter}
        self._replace(self._record_path(slot), json.dumps(record))
        _remove(os.path.join(self.folder, ERROR_NAME))
        self.close()

    def _replace(self, path: str, text: str) -> None:
        """A small file's new content, at once or not at all."""
        with open(path + ".new", "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".new", path)
        self._sync_folder()

    def _sync_folder(self) -> None:
        number = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)

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
                found = file.read()
            if len(found) == 8:
                return found
            damaged = True
        except FileNotFoundError:
            pass
        new = f"{path}.{os.getpid()}.new"  # another agent may start at the same time
        with open(new, "wb") as file:
            file.write(os.urandom(8))
            file.flush()
            os.fsync(file.fileno())
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
        self._sync_folder()
        with open(path, "rb") as file:
            return file.read()


def _remove(path: str) -> bool:
    """Whether there was such a file."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
