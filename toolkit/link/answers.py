"""What a board says, checked before anything believes it: one place for every field of every
answer. A board may be damaged, of another version, or lie; then it is refused by the field's
name, and no number of its decides how long we loop or how much we hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qedge.runtime.agent.numbers import DIGEST_BYTES
from qedge.runtime.text import printable

# Far above any board there is, far below what makes a loop or a buffer absurd.
BLOCK_MOST, PACKET_MOST, BYTES_MOST = 1 << 24, 1 << 20, 1 << 50
TEXT_MOST, PIECE_MOST, SECTION_MOST = 500, 1 << 20, 1 << 26
ID_BYTES, HASH_BYTES, KEY_BYTES = 8, 32, 32
SLOTS = 2


class Untrue(Exception):
    """A field of an answer is missing, of a wrong type, or out of range."""


def _shown(value: Any) -> str:
    """What a field holds, in a few characters."""
    try:
        return f"{value!r:.40}"
    except ValueError:  # Python writes no more than 4,300
        return "a number of thousands of digits"


class Fields:
    """Typed access to an answer's map. Every method raises Untrue with the field's name."""

    def __init__(self, values: Any, where: str = "its answer") -> None:
        if not isinstance(values, Mapping):
            raise Untrue(f"{where} is not a map")
        self._values = values

    def _get(self, key: str, default: Any) -> Any:
        value = self._values.get(key, default)
        if value is None:
            raise Untrue(f"{key} is missing")
        return value

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from low to high."""
        value = self._get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise Untrue(f"{key} is {_shown(value)}, not a whole number from {low} to {high}")
        return value

    def optional(self, key: str, low: int, high: int) -> int | None:
        """The same, or None when it is not there."""
        return None if key not in self._values else self.whole(key, low, high)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._get(key, default)
        if type(value) is not bool:
            raise Untrue(f"{key} is {_shown(value)}, not true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A short line that can be shown: control characters are made visible."""
        value = self._get(key, default)
        if not isinstance(value, str) or len(value) > TEXT_MOST:
            raise Untrue(f"{key} is not text of at most {TEXT_MOST} characters")
        return printable(value)

    def data(self, key: str, low: int, high: int, default: bytes | None = None) -> bytes:
        """Bytes, low to high of them."""
        value = self._get(key, default)
        if not isinstance(value, bytes) or not low <= len(value) <= high:
            raise Untrue(f"{key} is not {low} to {high} bytes")
        return value

    def rows(self, key: str, count: int) -> list[Fields]:
        """An array of so many maps."""
        value = self._get(key, None)
        if not isinstance(value, list) or len(value) != count:
            raise Untrue(f"{key} is not an array of {count}")
        return [Fields(row, key) for row in value]


@dataclass(frozen=True, slots=True)
class Slot:
    """What a slot's record says; sequence 0: it has none."""

    sequence: int
    bytes: int
    counter: int
    image_id: str


@dataclass(frozen=True, slots=True)
class Hello:
    """What a board says of itself. Sizes are bytes."""

    board: str
    board_id: str
    firmware: str
    kernels: str
    arena: int
    capacity: int
    block: int
    page: int
    packet: int
    tick_hz: int
    emulated: bool
    stack: int
    stack_used: int
    active: int | None
    slots: tuple[Slot, ...]
    key: bytes | None = None  # the public key whose signatures it wants
    floor: int = 0  # the least security counter that it takes
    ram: int = 0  # of a board with Linux, where image and arena share it
    peak_rss: int = 0
    threads: int = 1
    pending_error: str = ""  # why an image was not activated, or the active one given up
    parts: bool = False  # what is sent to a slot lies apart from the slot's image
    options: bool = False  # jobs take the options of `Model.open`
    start_error: int = 0  # a microcontroller's pending_error: the link's number of it,
    start_slot: int = 0  # the slot that it is about,
    fell_back: bool = False  # and whether the other slot's image became active for it

    @property
    def image_id(self) -> str | None:
        """Of the active image."""
        return None if self.active is None else self.slots[self.active].image_id


def hello(values: Any) -> Hello:
    """A board's hello. Untrue."""
    f = Fields(values)
    page = f.whole("page", 16, 1 << 20)
    block = f.whole("block", page, BLOCK_MOST)
    if page & (page - 1) or block & (block - 1):
        raise Untrue(f"a page of {page} and a block of {block} bytes are not powers of two")
    slots = []
    for row in f.rows("slots", SLOTS):
        sequence = row.whole("sequence", 0, 1 << 63)
        there = HASH_BYTES if sequence else 0
        image_id = row.data("id", there, HASH_BYTES, b"")
        slots.append(
            Slot(
                sequence,
                row.whole("bytes", 0, BYTES_MOST, 0),
                row.whole("counter", 0, (1 << 32) - 1, 0),
                image_id.hex(),
            )
        )
    active = f.optional("active", 0, SLOTS - 1)
    if active is not None and not slots[active].sequence:
        raise Untrue(f"active is slot {active}, which has no record")
    key = f.data("key", KEY_BYTES, KEY_BYTES) if "key" in values else None
    return Hello(
        board=f.text("board"),
        board_id=f.data("board_id", ID_BYTES, ID_BYTES).hex(),
        firmware=f.text("firmware"),
        kernels=f.text("kernels"),
        arena=f.whole("arena", 0, BYTES_MOST),
        capacity=f.whole("capacity", 0, (1 << 63) - 1),
        block=block,
        page=page,
        packet=f.whole("packet", page + 64, PACKET_MOST),
        tick_hz=f.whole("tick_hz", 1, 10**12),
        emulated=f.flag("emulated"),
        stack=f.whole("stack", 0, BYTES_MOST),
        stack_used=f.whole("stack_used", 0, BYTES_MOST),
        active=active,
        slots=tuple(slots),
        key=key,
        floor=f.whole("floor", 0, (1 << 32) - 1, 0),
        ram=f.whole("ram", 0, BYTES_MOST, 0),
        peak_rss=f.whole("peak_rss", 0, BYTES_MOST, 0),
        threads=f.whole("threads", 1, 1 << 16, 1),
        pending_error=f.text("pending_error", ""),
        parts=f.flag("parts", False),
        options=f.flag("options", False),
        start_error=f.whole("start_error", 0, 1 << 16, 0),
        start_slot=f.whole("start_slot", 0, SLOTS - 1, 0),
        fell_back=f.flag("fell_back", False),
    )


def step(values: Any, vocab_most: int = 1 << 24) -> dict[str, Any]:
    """What one step of a job found, each field that the link knows checked; others go."""
    f = Fields(values)
    found: dict[str, Any] = {
        "done": f.flag("done", False),
        "at": f.whole("at", 0, BYTES_MOST, 0),
        "of": f.whole("of", 0, BYTES_MOST, 1),
    }
    if "token" in values:
        found["token"] = f.whole("token", 0, vocab_most)
    if "text" in values:  # without a token it is the rest of the last one's
        found["text"] = f.data("text", 0, PIECE_MOST)
    if "reason" in values:
        found["reason"] = f.text("reason")
        if found["reason"] not in ("stop", "length", "context"):
            raise Untrue(f"reason is {found['reason']!r:.40}")
    if "hash" in values:
        found["hash"] = f.data("hash", HASH_BYTES, HASH_BYTES)
    if "json" in values:
        found["json"] = f.data("json", 0, PIECE_MOST)
    for name in ("prompt", "prefill_ticks", "first_ticks", "decode_ticks"):
        if name in values:
            found[name] = f.whole(name, 0, (1 << 64) - 1)
    return found


def section(values: Any) -> tuple[bool, int, bytes]:
    """Whether a section is there, its size, and a piece of it."""
    f = Fields(values)
    size = f.whole("bytes", 0, SECTION_MOST)
    return f.flag("there"), size, f.data("data", 0, PIECE_MOST)


def digests(values: Any, count: int) -> list[bytes]:
    """So many digests."""
    data = Fields(values).data("digests", count * DIGEST_BYTES, count * DIGEST_BYTES)
    return [data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES)]


def error(wrong: Mapping[str, Any], group: int) -> tuple[int, int, str]:
    """An error's group, number and text; of what is no number, 0."""
    numbers = [wrong.get("group", group), wrong.get("rc", 0)]
    place, code = (n if type(n) is int and 0 <= n < 1 << 32 else 0 for n in numbers)
    text = wrong.get("text", "")
    return place, code, printable(text[:TEXT_MOST]) if isinstance(text, str) else ""
