"""What a board's firmware takes: flash, RAM, and stack along its deepest path of calls."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from qedge.runtime.errors import NoBoardError, ToolError
from qedge.toolkit.bare.calls import Calls
from qedge.toolkit.bare.firmware import build, compilers
from qedge.toolkit.board import Board, device_of

GCC = "arm-none-eabi-gcc"
# As firmware/cortex/start.c has them: the first function on the stack that is measured, what
# begins without it, the tables of exceptions and of a port's interrupts, their own stack.
ENTRY, RESET = "main", "qf_reset"
TABLES = ("vectors", "interrupts")
HANDLER_STACK = "fault_stack"
# What the processor puts on a stack before it enters a handler, without and with the registers
# of a floating-point unit, and 4 to align it (Armv7-M manual DDI 0403, B1.5.6).
FRAME_BYTES, FLOAT_FRAME_BYTES = 36, 108


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a firmware, in bytes. The arena and the stack's room are the board file's."""

    board: str
    compiler: str
    flash_bytes: int  # code, constants, and what initial data has
    static_bytes: int  # RAM but arena and stack
    arena_bytes: int
    stack_bytes: int  # what the deepest path needs, and a handler's frame on top of it
    stack_room: int
    handler_bytes: int  # what the deepest handler needs, and the frame of a fault in it
    handler_room: int
    stack_path: list[str]  # its functions, each with its frame: "device_run 480"


def compiler_version(board: Board) -> str:
    """As the compiler says it. ToolError without gcc."""
    for compiler in compilers(device_of(board)):
        if compiler.name == GCC:
            line = [*compiler.command, "--version"]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            return done.stdout.splitlines()[0]
    raise ToolError(f"only gcc says what a function needs of the stack: install {GCC}")


def measure(board: Board, *, key: bytes | None = None) -> Sizes:
    """Builds the firmware (key: as firmware.build) and follows its calls. NoBoardError for one
    that is a process; ToolError without gcc, and for a call that cannot be followed."""
    device = device_of(board)
    if device.is_process:
        raise NoBoardError(
            f"{board.name} is a process: the system takes care of its stack and memory; "
            "give a microcontroller"
        )
    version = compiler_version(board)
    firmware = build(board, compiler=GCC, key=key)
    calls = Calls(firmware.path, firmware.calls, device.wrap)
    handlers = sorted({name for table in TABLES for name in calls.handlers(table)} - {RESET})
    if unknown := calls.unreached([RESET, *handlers]):
        raise ToolError(
            f"{board.name}: nobody is known to call {', '.join(unknown)}; name the pointer "
            "that leads there in firmware/calls.toml"
        )
    frame = FLOAT_FRAME_BYTES if "-mfloat-abi=hard" in device.cpu else FRAME_BYTES
    path = calls.deepest(ENTRY)
    paths = [sum(function.frame for function in calls.deepest(name)) for name in handlers]
    return Sizes(
        board=board.name,
        compiler=version,
        flash_bytes=firmware.code_bytes,
        static_bytes=firmware.ram_bytes - device.arena_bytes - device.stack_bytes,
        arena_bytes=device.arena_bytes,
        stack_bytes=sum(function.frame for function in path) + frame,
        stack_room=device.stack_bytes,
        handler_bytes=max(paths) + frame,
        handler_room=calls.room(HANDLER_STACK),
        stack_path=[f"{function.name} {function.frame}" for function in path]
        + [f"exception {frame}"],
    )
