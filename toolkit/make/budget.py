"""Proves at build time that it fits: the plan that the image carries and the device enforces.

The engine's own size function counts the arena, so the promise and the use cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from qedge.runtime._engine import KV_TYPES, session_size
from qedge.runtime.errors import BudgetError, ImageError, UsageError
from qedge.runtime.machine import total_bytes
from qedge.runtime.session import RESIDENT_BYTES
from qedge.runtime.sizes import show_size
from qedge.toolkit.board import Board
from qedge.toolkit.source.model import ModelConfig

# What a Linux board's own system keeps of its RAM: firmware, kernel and services. Seen: a Zero
# 2 W shows 416 of its 512 MiB (github.com/ravijo/pi-llm); a Pi 4 of 8 GiB shows 7,819 MiB and
# uses 220 (geerlingguy/sbc-reviews#110); a Pi 500+ of 16 GiB shows 16,215 and uses 785 with a
# desktop (#81). This covers them with 96, 79 and 230 MiB to spare.
SYSTEM_BYTES, SYSTEM_SHARE = 160 << 20, 16

# The engine's limits: SPEC 3.3.
_LIMITS = {"dim": 65536, "ffn": 65536, "layers": 512, "heads": 1024, "vocab_size": 1 << 20}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
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
    """The configuration as the engine counts with it. ImageError beyond the engine's limits:
    they are the model's, and no board or context would help."""
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
            raise ImageError(
                f"{config.name}: {key} is {found[key]:,}; the engine takes {most:,}"
            )
    if config.norm_eps >= 1.0:
        raise ImageError(
            f"{config.name}: norm_eps is {config.norm_eps}; the engine takes below 1"
        )
    if config.head_size % 4 or config.head_size > 512:
        raise ImageError(
            f"{config.name}: heads of {config.head_size}; the engine takes multiples of 4 "
            f"up to 512"
        )
    if config.heads * config.head_size > 65536 or config.heads // config.kv_heads > 64:
        raise ImageError(
            f"{config.name}: {config.heads} heads of {config.head_size} with "
            f"{config.kv_heads} for keys are too many; the engine takes 65,536 values of a "
            "token's heads, and 64 heads to one for keys"
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
    system: int = 0  # of the RAM, what is kept from us

    @classmethod
    def of(cls, board: Board) -> Room:
        if board.device is not None:
            return cls(board.name, 0, board.device.image_bytes, board.device.arena_bytes)
        return cls.holding(board, board.ram_bytes or total_bytes() or 1 << 62)

    @classmethod
    def holding(cls, board: Board, ram_bytes: int) -> Room:
        """A machine's, with that much RAM."""
        system = SYSTEM_BYTES + ram_bytes // SYSTEM_SHARE if board.linux is not None else 0
        return cls(board.name, ram_bytes, None, None, system)

    def lacks(self, made: MemoryPlan) -> str | None:
        """What does not fit, in words; None when all does."""
        if self.slot is None or self.arena is None:
            if made.resident_bytes + self.system <= self.ram:
                return None
            kept = f" less {show_size(self.system)} for its system" if self.system else ""
            return (
                f"needs {show_size(made.resident_bytes)} (image {show_size(made.image_bytes)}, "
                f"arena {show_size(made.arena_bytes)}), {self.board} has "
                f"{show_size(self.ram)}{kept}"
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


def memory_plan(
    config: ModelConfig, board: Board, context: int, kv: str, weight_bytes: int
) -> MemoryPlan:
    """What a context takes on a board, whether it fits or not.

    weight_bytes: the image without its rope table. ImageError beyond the engine's limits."""
    shape = engine_config(config)
    arena = session_size(shape, context, board.batch_tokens, board.threads, KV_TYPES[kv])
    rope = context * config.head_size * 4
    image = weight_bytes + rope + 32 * -(-rope // board.leaf_bytes)  # and its leaves' hashes
    bare = board.device is not None
    return MemoryPlan(context, board.batch_tokens, board.threads, kv, arena, image, bare)


def longest_context(
    config: ModelConfig, board: Board, kv: str, weight_bytes: int, most: int
) -> int:
    """The longest context of at most `most` tokens that fits; 0 when none does."""
    room = Room.of(board)
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if room.lacks(memory_plan(config, board, middle, kv, weight_bytes)) is None:
            low = middle
        else:
            high = middle - 1
    return low


def check_context(config: ModelConfig, context: int | str) -> None:
    """UsageError for a context that no session of the model could have."""
    if not isinstance(context, int) or not 1 <= context <= 1 << 24:
        raise UsageError(f"--context {context}: give a number of tokens, or auto")
    if context > config.context:
        raise UsageError(
            f"--context {context}: {config.name} was trained for {config.context} tokens; "
            f"ask for at most {'that' if config.bound is None else config.longest}"
        )
    if config.bound is not None and context > config.bound.positions:
        raise UsageError(
            f"--context {context}: {config.name}: {config.bound.why} {config.longest} tokens, "
            f"and a longer context is not supported; take --context {config.longest}"
        )


def plan(
    config: ModelConfig, board: Board, context: int | str, kv: str, weight_bytes: int
) -> MemoryPlan:
    """The plan for a context, or for the longest that fits when it is "auto".

    weight_bytes: the image without its rope table. BudgetError when the board is too small.
    """
    room = Room.of(board)
    smaller = "take a smaller quantization or model"
    if board.linux is not None:
        smaller += ", or give --ram SIZE when yours has more"

    def made(tokens: int) -> MemoryPlan:
        return memory_plan(config, board, tokens, kv, weight_bytes)

    def longest() -> int:
        return longest_context(config, board, kv, weight_bytes, config.longest)

    if context == "auto":
        if not (tokens := longest()):
            raise BudgetError(f"{config.name} {room.lacks(made(1))}; {smaller}")
        return made(tokens)
    check_context(config, context)
    found = made(int(context))
    if (lack := room.lacks(found)) is not None:
        cure = f"try --context {tokens}" if (tokens := longest()) else smaller
        raise BudgetError(f"{config.name} {lack}; {cure}")
    return found
