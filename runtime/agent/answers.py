"""What the agent answers: a message of the link (docs/link.md) to its answer, or to an error.

Lines and streams are __main__'s, what takes long is in jobs, what is kept in slots.
"""

from __future__ import annotations

import errno
import hashlib
import struct
import sys

from qedge.runtime._engine import EngineError
from qedge.runtime.agent import cbor
from qedge.runtime.agent.jobs import ENGINE, TEST, TICK_HZ, UNSIGNED, WRONG_BOARD, Jobs
from qedge.runtime.agent.keys import KEY_PATH
from qedge.runtime.agent.slots import (
    LOCKED,
    MESSAGE,
    NO_IMAGE,
    OLDER,
    RANGE,
    SlotError,
    Slots,
)
from qedge.runtime.errors import BudgetError, QedgeError
from qedge.runtime.machine import cpus, peak_rss_bytes, total_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "0.1.0"  # of the package: a test holds them equal
BLOCK_BYTES = 65536
PACKET_BYTES = 40960  # a message at most, so that half a block fits
PAGE_BYTES = 4096
TRIES = 3  # of an image that ends the agent, or the board, while it is tested
OS, QEDGE = 0, 64
OS_ECHO, OS_RESET = 0, 5
HELLO, DIGEST, WRITE, COPY, JOB, STEP, SECTION = range(7)
SECTION_BYTES = 16384
_BULK = (5, 7)  # sections that are not verified as an image is opened: rope, weights
OTHER_BOARD, NO_SPACE, CANNOT_WRITE = 11, 13, 14
_SMP_UNSUPPORTED, _SMP_INVALID = 8, 3
_HEAD = struct.Struct(">BBHHBB")
_REASONS = {
    NO_IMAGE: "there is no such image in its slot",
    WRONG_BOARD: "it was built for another board",
    TEST: "its golden test gave other tokens or logits",
    UNSIGNED: "it has no signature by the key that this board trusts",
    OLDER: "its security counter is below one that was accepted",
    ENGINE + 1: "it is damaged",
    ENGINE + 3: "a hash does not match",
}


class Agent:
    """Answers packets, one at a time."""

    def __init__(
        self,
        root: str,
        board: str,
        emulated: bool = False,
        key_path: str = KEY_PATH,
        key_owner: int = 0,
    ) -> None:
        """key_path, key_owner: as of Jobs."""
        self._slots = Slots(root)
        self._jobs = Jobs(self._slots, board, key_path, key_owner)
        self._board, self._emulated = board, emulated
        self._id = self._slots.board_id()
        self._last: tuple[bytes, bytes] | None = None
        if self._slots.pending() is not None:
            self._take_up()
        self._check_active()

    def _check_active(self) -> None:
        """An active image that cannot be opened, or is not signed as it has to be, gives way to
        the other slot's, and that is said. What neither can do, `run` says. An image for
        another board than the agent was started as stays: under its own name it is good."""
        slots, active = self._slots, self._slots.active()
        if active is None:
            return
        try:
            self._jobs.active_image()
            if slots.floor() and not slots.locked:
                slots.raise_floor(slots.floor())  # the power failed between a record and it
            return
        except SlotError as error:
            if error.code == WRONG_BOARD:
                return
            why = _reason(error)
        except OSError:
            return
        other = slots.record(1 - active)
        if not other:
            return
        try:
            slots.put_pending(1 - active, other["id"])
            self._take_up()
            if slots.active() not in (active, None):
                slots.keep_reason(
                    f"the active image was given up ({why}); the one before is active again"
                )
        except (SlotError, OSError) as error:
            print(f"the active image is no good ({why}), and {error}", file=sys.stderr)
        finally:
            slots.close()

    def _take_up(self) -> None:
        """Verifies, tests and activates the image that was put on the board's card while the
        board was off, as the firmware does with what lies in its first slot. One that fails is
        not tried again, and why is kept (Slots.pending_error). The active slot stays what it
        was until the other one has its record, so power may fail at any time."""
        slots = self._slots
        try:
            slots.lock()
            while (slot := slots.pending()) is not None:
                slots.end_pending(slot, self._why_not(slot))
        except (SlotError, OSError) as error:  # another is at it; or a disk that is read only
            print(f"the image on the card has to wait: {error}", file=sys.stderr)
        finally:
            self._jobs.close()
            slots.close()

    def _why_not(self, slot: int) -> str:
        """Takes up a slot's image; why it could not, or nothing."""
        try:
            image_id, tries = self._slots.try_pending(slot)
            if slot == self._slots.active():  # the power failed behind the last step but one
                found = self._slots.record(slot)["id"]
                return "" if found == image_id else "the active slot is not written"
            if tries >= TRIES:
                return f"the agent ended {TRIES} times while it was tested"
            named = bytes.fromhex(image_id)
            self._jobs.begin({"job": "activate", "slot": slot, "id": named})
            while not self._jobs.step(None).get("done"):
                pass
        except SlotError as error:
            if error.code == LOCKED:
                raise
            return _reason(error)
        except (EngineError, QedgeError, ValueError, KeyError, TypeError) as error:
            return str(error)
        return ""

    @property
    def locked(self) -> bool:
        return self._slots.locked

    def close(self) -> None:
        self._jobs.close()
        self._slots.close()

    def answer(self, packet: bytes) -> bytes | None:
        """The answer to a packet; the same one to the same packet again, without doing
        anything. None to what is no request."""
        if len(packet) < _HEAD.size:
            return None
        if self._last is not None and self._last[0] == packet:
            return self._last[1]
        op, _, count, group, sequence, command = _HEAD.unpack_from(packet)
        if op & 7 not in (0, 2) or count != len(packet) - _HEAD.size:
            return None
        try:
            values = cbor.loads(packet[_HEAD.size :])
            if not isinstance(values, dict):
                raise ValueError("no map")
            found = self._do(group, command, values)
        except SlotError as error:
            found = _error(group, error.code, error.text)
        except EngineError as error:
            found = _error(QEDGE, ENGINE - error.code)
        except BudgetError as error:
            found = _error(QEDGE, ENGINE + 7, str(error))
        except QedgeError as error:
            found = _error(QEDGE, MESSAGE, str(error))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            found = _error(QEDGE, NO_SPACE if full else CANNOT_WRITE, error.strerror or "")
        except Exception as error:  # of what a message has in it: it must not end the agent
            found = _error(group, MESSAGE if group == QEDGE else _SMP_INVALID, str(error))
        body = cbor.dumps(found)
        head = _HEAD.pack((op & 7) + 1 | op & 0x18, 0, len(body), group, sequence, command)
        answer = head + body
        self._last = packet, answer
        return answer

    def _do(self, group: int, command: int, values: dict[str, Any]) -> dict[str, Any]:
        if (group, command) == (OS, OS_ECHO):
            return {"r": values.get("d", "")}
        if (group, command) == (OS, OS_RESET):
            self.close()  # as a restart would: what is active stays
            return {}
        if group != QEDGE:
            raise SlotError(_SMP_UNSUPPORTED)
        if command == HELLO:
            return self._hello()
        if command == DIGEST:
            part = values.get("part") is True
            return self._digest(values["slot"], values["first"], values["count"], part)
        if command == WRITE:
            self._write(values, values["data"])
            return {}
        if command == COPY:
            data = self._slots.read(values["from"], _offset(values["source"]), BLOCK_BYTES)
            if not data:
                raise SlotError(NO_IMAGE)
            self._write(values, data.ljust(BLOCK_BYTES, b"\xff"))
            return {}
        if command == JOB:
            self._jobs.begin(values)
            return {}
        if command == STEP:
            return self._jobs.step(values.get("ticket"))
        if command == SECTION:
            return self._section(values["kind"], values.get("offset", 0))
        raise SlotError(_SMP_UNSUPPORTED)

    def _write(self, values: dict[str, Any], data: bytes) -> None:
        """Whole pages into a slot; it ends the job that is at work, which may be about it."""
        if values["id"] != self._id:
            raise SlotError(OTHER_BOARD)
        slot, offset = values["slot"], _offset(values["offset"])
        if not isinstance(data, bytes) or not data or len(data) % PAGE_BYTES:
            raise SlotError(RANGE)
        self._jobs.stop()
        self._slots.write(slot, offset, data)

    def _section(self, kind: int, offset: int) -> dict[str, Any]:
        """A piece of a section of the active image, of those that are verified as it is
        opened."""
        if type(kind) is not int or kind in _BULK or type(offset) is not int or offset < 0:
            raise SlotError(MESSAGE)
        _, image = self._jobs.active_image()
        data = image.section(kind)
        found = data or b""
        return {
            "there": data is not None,
            "bytes": len(found),
            "data": found[offset : offset + SECTION_BYTES],
        }

    def _hello(self) -> dict[str, Any]:
        from qedge.runtime.machine import kernel_sets

        slots = []
        for slot in (0, 1):
            record = self._slots.record(slot)
            if not record:
                slots.append({"sequence": 0})
                continue
            slots.append(
                {
                    "sequence": record["sequence"],
                    "bytes": record["bytes"],
                    "counter": record.get("counter", 0),
                    "id": bytes.fromhex(record["id"]),
                }
            )
        found: dict[str, Any] = {
            "board": self._board,
            "board_id": self._id,
            "firmware": f"qedge-runtime {VERSION}",
            "kernels": next(name for name, usable in kernel_sets() if usable),
            "arena": total_bytes() or 0,
            "capacity": min(self._slots.capacity(), (1 << 63) - 1),
            "block": BLOCK_BYTES,
            "page": PAGE_BYTES,
            "packet": PACKET_BYTES,
            "tick_hz": TICK_HZ,
            "emulated": self._emulated,
            "stack": 0,
            "stack_used": 0,
            "slots": slots,
            "parts": True,  # what is sent to a slot lies apart from its image
            "ram": total_bytes() or 0,
            "peak_rss": peak_rss_bytes(),
            "threads": cpus(),
        }
        if (active := self._slots.active()) is not None:
            found["active"] = active
        if (key := self._jobs.key()) is not None:
            found["key"], found["floor"] = key, self._slots.floor()
        if reason := self._slots.pending_error():
            found["pending_error"] = reason
        return found

    def _digest(self, slot: int, first: int, count: int, part: bool) -> dict[str, Any]:
        """Of blocks, the last filled up with 0xff as a flash would be; none is eight zeros."""
        if type(first) is not int or type(count) is not int:
            raise SlotError(MESSAGE)
        if not 0 < count <= 1024 or first < 0:
            raise SlotError(MESSAGE)
        found = bytearray()
        for number in range(first, first + count):
            data = self._slots.read(slot, number * BLOCK_BYTES, BLOCK_BYTES, part)
            data = data and data.ljust(BLOCK_BYTES, b"\xff")
            found += hashlib.sha256(data).digest()[:8] if data else bytes(8)
        return {"digests": bytes(found)}


def _reason(error: SlotError) -> str:
    """Why an image is not taken, in words."""
    return _REASONS.get(error.code, "") or error.text or str(error)


def _offset(value: int) -> int:
    if type(value) is not int or not 0 <= value < 1 << 50 or value % PAGE_BYTES:
        raise SlotError(RANGE)
    return value


def _error(group: int, code: int, text: str = "") -> dict[str, Any]:
    return {"err": {"group": group, "rc": code, "text": text[:500]}}
