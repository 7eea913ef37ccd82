"""What the agent answers: a message of the link (docs/link.md) to its answer, or to an error.

Lines and streams are __main__'s, what takes long is in jobs, what is kept in slots.
"""

from __future__ import annotations

import errno
import hashlib
import struct
import sys

from qedge.runtime._engine import SECTIONS, EngineError
from qedge.runtime.agent import cbor, fields
from qedge.runtime.agent.jobs import TICK_HZ, Jobs
from qedge.runtime.agent.keys import KEY_PATH
from qedge.runtime.agent.numbers import (
    DIGEST_BYTES,
    DIGESTS_AT_ONCE,
    GROUP_OS,
    GROUP_QEDGE,
    LINK_DISK,
    LINK_DISK_FULL,
    LINK_ENGINE,
    LINK_LOCKED,
    LINK_MESSAGE,
    LINK_NO_IMAGE,
    LINK_OLDER,
    LINK_OTHER_BOARD,
    LINK_RANGE,
    LINK_TEST,
    LINK_UNKNOWN,
    LINK_UNSIGNED,
    LINK_WRONG_BOARD,
    OS_ECHO,
    OS_PARAMETERS,
    OS_RESET,
    QEDGE_COPY,
    QEDGE_DIGEST,
    QEDGE_HELLO,
    QEDGE_JOB,
    QEDGE_SECTION,
    QEDGE_STEP,
    QEDGE_WRITE,
    SMP_INVALID,
    SMP_UNSUPPORTED,
)
from qedge.runtime.agent.slots import SlotError, Slots
from qedge.runtime.errors import BudgetError, QedgeError
from qedge.runtime.machine import cpus, peak_rss_bytes, total_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

VERSION = "0.1.0"  # of the package: a test holds them equal
BLOCK_BYTES = 65536
PACKET_BYTES = 40960  # a message at most, so that half a block fits
PAGE_BYTES = 4096
TRIES = 3  # of an image that ends the agent, or the board, while it is tested
SECTION_BYTES = 16384
READ, WRITE = 0, 2  # SMP's operations
_BULK = (SECTIONS["rope"], SECTIONS["weights"])  # not verified as an image is opened
_HEAD = struct.Struct(">BBHHBB")
_REASONS = {
    LINK_NO_IMAGE: "there is no such image in its slot",
    LINK_WRONG_BOARD: "it was built for another board",
    LINK_TEST: "its golden test gave other tokens or logits",
    LINK_UNSIGNED: "it has no signature by the key that this board trusts",
    LINK_OLDER: "its security counter is below one that was accepted",
    LINK_ENGINE + 1: "it is damaged",
    LINK_ENGINE + 3: "a hash does not match",
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
            if error.code == LINK_WRONG_BOARD:
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
            print(f"the active image is damaged ({why}), and {error}", file=sys.stderr)
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
            while not self._jobs.step(0).get("done"):
                pass
        except SlotError as error:
            if error.code == LINK_LOCKED:
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
        if op & 1 or count != len(packet) - _HEAD.size:
            return None
        try:
            found = self._do(op & 7, group, command, packet[_HEAD.size :])
        except SlotError as error:
            found = _error(op, group, error.code, error.text)
        except EngineError as error:
            found = _error(op, group, LINK_ENGINE - error.code)
        except BudgetError as error:
            found = _error(op, group, LINK_ENGINE + 7, str(error))
        except QedgeError as error:
            found = _error(op, group, LINK_MESSAGE, str(error))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            text = error.strerror or ""
            found = _error(op, group, LINK_DISK_FULL if full else LINK_DISK, text)
        except Exception as error:  # of what a message has in it: it must not end the agent
            found = _error(op, group, LINK_MESSAGE, str(error))
        body = cbor.dumps(found)
        head = _HEAD.pack((op & 7) + 1 | op & 0x18, 0, len(body), group, sequence, command)
        answer = head + body
        self._last = packet, answer
        return answer

    def _do(self, op: int, group: int, command: int, body: bytes) -> dict[str, Any]:
        ours = group == GROUP_QEDGE
        if op not in (READ, WRITE):
            raise SlotError(LINK_MESSAGE if ours else SMP_INVALID)
        try:
            values = cbor.loads(body)
        except ValueError as error:
            raise SlotError(LINK_MESSAGE if ours else SMP_INVALID, str(error)) from None
        if not isinstance(values, dict):
            raise SlotError(LINK_MESSAGE if ours else SMP_INVALID, "no map")
        known = self._ours if ours else self._smp if group == GROUP_OS else {}
        if (do := known.get(command)) is None:
            raise SlotError(LINK_UNKNOWN if ours else SMP_UNSUPPORTED)
        return do(values)

    @property
    def _ours(self) -> dict[int, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {
            QEDGE_HELLO: self._hello,
            QEDGE_DIGEST: self._digest,
            QEDGE_WRITE: self._write,
            QEDGE_COPY: self._copy,
            QEDGE_JOB: self._job,
            QEDGE_STEP: self._step,
            QEDGE_SECTION: self._section,
        }

    @property
    def _smp(self) -> dict[int, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {OS_ECHO: _echo, OS_RESET: self._reset, OS_PARAMETERS: _parameters}

    def _reset(self, values: dict[str, Any]) -> dict[str, Any]:
        self.close()  # as a restart would: what is active stays
        return {}

    def _job(self, values: dict[str, Any]) -> dict[str, Any]:
        self._jobs.begin(values)
        return {}

    def _step(self, values: dict[str, Any]) -> dict[str, Any]:
        return self._jobs.step(fields.whole(values, "ticket", 0, fields.WORD_MOST, 0))

    def _write(self, values: dict[str, Any]) -> dict[str, Any]:
        self._is_for_us(values)
        data = fields.data(values, "data")
        self._put(fields.slot(values), _offset(values, "offset", PAGE_BYTES), data)
        return {}

    def _copy(self, values: dict[str, Any]) -> dict[str, Any]:
        self._is_for_us(values)
        slot, other = fields.slot(values), fields.slot(values, "from")
        offset = _offset(values, "offset", BLOCK_BYTES)
        data = self._slots.read(other, _offset(values, "source", BLOCK_BYTES), BLOCK_BYTES)
        if not data:
            raise SlotError(LINK_NO_IMAGE)
        self._put(slot, offset, data.ljust(BLOCK_BYTES, b"\xff"))
        return {}

    def _is_for_us(self, values: dict[str, Any]) -> None:
        """A message that writes names the board that it is for: ports can be swapped."""
        if values.get("id") != self._id:
            raise SlotError(LINK_OTHER_BOARD)

    def _put(self, slot: int, offset: int, data: bytes) -> None:
        """Whole pages into a slot; it ends the job that is at work, which may be about it."""
        if not data or len(data) % PAGE_BYTES:
            raise SlotError(LINK_RANGE)
        self._jobs.stop()
        self._slots.write(slot, offset, data)

    def _section(self, values: dict[str, Any]) -> dict[str, Any]:
        """A piece of a section of the active image, of those that are verified as it is
        opened."""
        kind = fields.whole(values, "kind", 1, fields.WORD_MOST)
        offset = fields.whole(values, "offset", 0, fields.WORD_MOST, 0)
        if kind in _BULK:
            raise SlotError(LINK_MESSAGE)
        _, image = self._jobs.active_image()
        data = image.section(kind)
        found = data or b""
        return {
            "there": data is not None,
            "bytes": len(found),
            "data": found[offset : offset + SECTION_BYTES],
        }

    def _hello(self, values: dict[str, Any]) -> dict[str, Any]:
        from qedge.runtime.machine import kernel_sets

        slots: list[dict[str, Any]] = []
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
            "options": True,  # jobs take those of `Model.open`
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

    def _digest(self, values: dict[str, Any]) -> dict[str, Any]:
        """Of blocks, the last filled up with 0xff as a flash would be; none is zeros."""
        slot, part = fields.slot(values), fields.flag(values, "part", False)
        count = fields.whole(values, "count", 1, DIGESTS_AT_ONCE)
        first = fields.whole(values, "first", 0, fields.WORD_MOST)
        found = bytearray()
        for number in range(first, first + count):
            data = self._slots.read(slot, number * BLOCK_BYTES, BLOCK_BYTES, part)
            data = data and data.ljust(BLOCK_BYTES, b"\xff")
            found += (
                hashlib.sha256(data).digest()[:DIGEST_BYTES] if data else bytes(DIGEST_BYTES)
            )
        return {"digests": bytes(found)}


def _echo(values: dict[str, Any]) -> dict[str, Any]:
    text = values.get("d")
    if not isinstance(text, (str, bytes)) or len(text) > PACKET_BYTES // 2:
        raise SlotError(SMP_INVALID)
    return {"r": text if isinstance(text, str) else text.decode("utf-8", "replace")}


def _parameters(values: dict[str, Any]) -> dict[str, Any]:
    return {"buf_size": PACKET_BYTES, "buf_count": 1}


def _reason(error: SlotError) -> str:
    """Why an image is not taken, in words."""
    return _REASONS.get(error.code, "") or error.text or str(error)


def _offset(values: dict[str, Any], key: str, step: int) -> int:
    """A place in a slot, at a multiple of step."""
    value = values.get(key)
    if type(value) is not int or not 0 <= value < 1 << 50 or value % step:
        raise SlotError(LINK_RANGE, f"{key} is not a place in a slot")
    return value


def _error(op: int, group: int, code: int, text: str = "") -> dict[str, Any]:
    """SMP's first version, and its own groups, have a number alone."""
    if not op >> 3 & 3 or group != GROUP_QEDGE:
        return {"rc": code}
    return {"err": {"group": group, "rc": code, "text": text[:500]}}
