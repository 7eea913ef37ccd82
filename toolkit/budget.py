"""Proves at build time that it fits: the plan that the image carries and the device enforces.

The engine's own size function counts the arena, so the promise and the use cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from qedge.runtime._engine import session_size
from qedge.runtime.errors import BudgetError, UsageError
from qedge.runtime.image import KV_TYPES
from qedge.runtime.machine import total_bytes
from qedge.runtime.session import RESIDENT_BYTES
from qedge.runtime.sizes import show_size
from qedge.toolkit.board import Board
from qedge.toolkit.source.model import ModelConfig

# The engine's limits: SPEC 3.3.
_LIMITS = {"dim": 65536, "ffn": 65536, "layers": 512, "heads": 1024, "vocab_size": 1 << 20}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a session will need; all sizes in bytes."""

    context: int
    batch: int
    threads: int
    kv: str
    arena_bytes: int
    image_bytes: int
    bare: bool = False  # a microcontroller: the image stays in flash, and there is no runtime

    @property
    def resident_bytes(self) -> int:
        """RAM: image pages, arena and the runtime itself (an estimate, unlike the arena); of a
        microcontroller the arena alone."""
        if self.bare:
            return self.arena_bytes
        return self.image_bytes + self.arena_bytes + RESIDENT_BYTES


def engine_config(config: ModelConfig) -> dict[str, int]:
    """The configuration as the engine counts with it. UsageError beyond the engine's limits."""
    found = {
        "dim": config.dim,
        "layers": config.layers,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_size": config.head_size,
        "ffn": config.ffn,
        "vocab_size": config.vocab_size,
    }
    for key, most in _LIMITS.items():
        if found[key] > most:
            raise BudgetError(
                f"{config.name}: {key} is {found[key]:,}; the engine takes {most:,}"
            )
    if config.norm_eps >= 1.0:
        raise BudgetError(
            f"{config.name}: norm_eps is {config.norm_eps}; the engine takes below 1"
        )
    if config.head_size % 4 or config.head_size > 512:
        raise BudgetError(
            f"{config.name}: heads of {config.head_size}; the engine takes multiples of 4 "
            f"up to 512"
        )
    if config.heads * config.head_size > 65536 or config.heads // config.kv_heads > 64:
        raise BudgetError(
            f"{config.name}: {config.heads} heads of {config.head_size} are too many"
        )
    return found


@dataclass(frozen=True, slots=True)
class Room:
    """What a board has, and whether a plan fits it. A machine shares its RAM between image and
    arena; a microcontroller keeps the image in a slot of its flash."""

    board: str
    ram: int
    slot: int | None
    arena: int | None

    @classmethod
    def of(cls, board: Board) -> Room:
        if board.device is not None:
            return cls(board.name, 0, board.device.image_bytes, board.device.arena_bytes)
        return cls(board.name, board.ram_bytes or total_bytes() or 1 << 62, None, None)

    def lacks(self, made: Plan) -> str | None:
        """What does not fit, in words; None when all does."""
        if self.slot is None or self.arena is None:
            if made.resident_bytes <= self.ram:
                return None
            return (
                f"needs {show_size(made.resident_bytes)} (image {show_size(made.image_bytes)}, "
                f"arena {show_size(made.arena_bytes)}), {self.board} has {show_size(self.ram)}"
            )
        if made.image_bytes > self.slot:
            return (
                f"makes an image of up to {show_size(made.image_bytes)}, a slot of "
                f"{self.board} holds {show_size(self.slot)}"
            )
        if made.arena_bytes > self.arena:
            return (
                f"needs an arena of {show_size(made.arena_bytes)}, {self.board} has "
                f"{show_size(self.arena)}"
            )
        return None


def plan(
    config: ModelConfig, board: Board, context: int | str, kv: str, weight_bytes: int
) -> Plan:
    """The plan for a context, or for the longest that fits when it is "auto".

    weight_bytes: the image without its rope table. BudgetError when the board is too small.
    """
    shape = engine_config(config)
    room = Room.of(board)

    def made(tokens: int) -> Plan:
        arena = session_size(shape, tokens, board.batch_tokens, board.threads, KV_TYPES[kv])
        image = weight_bytes + tokens * config.head_size * 4
        bare = board.device is not None
        return Plan(tokens, board.batch_tokens, board.threads, kv, arena, image, bare)

    def longest() -> int:
        low, high = 0, config.context
        while low < high:
            middle = (low + high + 1) // 2
            if room.lacks(made(middle)) is None:
                low = middle
            else:
                high = middle - 1
        return low

    if context == "auto":
        if not (tokens := longest()):
            raise BudgetError(
                f"{config.name} {room.lacks(made(1))}; take a smaller quantization or model"
            )
        return made(tokens)
    if not isinstance(context, int) or not 1 <= context <= 1 << 24:
        raise UsageError(f"--context {context}: give a number of tokens, or auto")
    if context > config.context:
        raise UsageError(
            f"--context {context}: {config.name} was trained for {config.context} tokens; "
            f"ask for "
            "at most that"
        )
    found = made(context)
    if (lack := room.lacks(found)) is not None:
        cure = (
            f"try --context {tokens}"
            if (tokens := longest())
            else "take a smaller quantization or model"
        )
        raise BudgetError(f"{config.name} {lack}; {cure}")
    return found
