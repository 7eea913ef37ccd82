"""A microcontroller: the firmware as a process on a flash file. Two clients share its line, as
they would behind a serial server; power may fail within any operation of the flash."""

from __future__ import annotations

import mmap
import os
import random
import struct
import subprocess
import zlib
from pathlib import Path

from simulation.stage import Rates, named_id

from qedge.runtime._engine import EngineError, Image
from qedge.runtime.agent.frame import Decoder
from qedge.toolkit.bare.firmware import build
from qedge.toolkit.board import Board, device_of, load

RECORD, RECORD_BYTES, PAGE, PACKET_BYTES = 0x54534551, 52, 256, 1280


class FirmwareWorld:
    """See stage.World."""

    noisy = True

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self._rate = Rates.of(dice)
        self.board: Board = load("sim")
        self._device = device_of(self.board)
        self._program = build(self.board).path
        folder.mkdir()
        self._folder, self._flash = folder, folder / "flash.bin"
        self._flash.write_bytes(b"\xff" * self._device.flash_bytes + b"simulate")
        with self._flash.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._process: subprocess.Popen[bytes] | None = None
        self._cut = 0
        self._lost: set[int] = set()  # clients that have not come again since the power failed
        self._flips: list[tuple[int, int]] = []  # (message, offset in flash)
        self._named = b""  # the image that the last job named
        self._began = 0  # when it began
        self._starts = 0  # a start may give the active image up
        self._now = 0
        self._seen: tuple[int, bytes] | None = None
        self._before: tuple[int, int] = (0, 0)  # sequence of the active record, starts

    # ---- messages ----

    def connect(self, client: int) -> None:
        self._lost.discard(client)

    def send(self, client: int, data: bytes) -> bytes:
        self._now += 1
        if client in self._lost:
            raise OSError("the board was reset")
        process = self._running()
        decoder, out = Decoder(), b""
        assert process.stdin and process.stdout
        try:
            process.stdin.write(data)
            for packet in Decoder().feed(data):
                if packet[4:6] == bytes([0, 64]) and packet[7] == 4:
                    self._named, self._began = named_id(packet), self._now
            if all(len(packet) > PACKET_BYTES for packet in Decoder().feed(data)):
                return b""  # too long for the board, which passes it over
            while True:
                piece = os.read(process.stdout.fileno(), 4096)
                if not piece:
                    raise BrokenPipeError
                out += piece
                if packets := list(decoder.feed(piece)):
                    break
            if packets[0][4:6] == b"\0\0" and packets[0][7] == 5:
                self._stop()  # a reset: whoever started it starts it again
            return out
        except BrokenPipeError:
            self._power_failed()
            raise OSError("the power failed") from None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            environment = {**os.environ, "QEDGE_FLASH_FILE": str(self._flash)}
            environment["QEDGE_CUT"] = str(self._cut)
            self._cut = 0
            self._starts += 1
            self._process = subprocess.Popen(
                [self._program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=environment,
            )
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            assert self._process.stdin and self._process.stdout
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()
            self._process = None

    def _power_failed(self) -> None:
        self._stop()
        self._lost = {0, 1, 2}

    def close(self) -> None:
        self._stop()
        self._memory.close()

    # ---- what happens ----

    def disturb(self, dice: random.Random) -> str:
        chance = dice.random()
        rate = self._rate
        if chance < rate.end + rate.power:
            self._power_failed()
            self._cut = dice.choice([0, 0, dice.randrange(1, 12), dice.randrange(1, 400)])
            return f"the power fails, and again at flash operation {self._cut}"
        if chance < rate.end + rate.power + rate.flip:
            return self._flip(dice)
        return ""

    def _flip(self, dice: random.Random) -> str:
        device = self._device
        slot = device.slot_at + dice.randrange(2) * device.slot_bytes
        near = dice.choice([PAGE * 4, device.erase_bytes, 1 << 18])
        at, bit = slot + dice.randrange(near), dice.randrange(8)
        self._memory[at] ^= 1 << bit
        self._flips.append((self._now, at))
        return f"bit {bit} of byte {at} of the flash flips"

    def spoilt(self, image_id: str) -> bool:
        return bool(self._flips)

    def rest(self) -> None:
        self._cut = 0
        self._power_failed()  # what runs now may have been started with a cut

    # ---- what must hold ----

    def _slot_at(self, slot: int) -> int:
        return self._device.slot_at + slot * self._device.slot_bytes

    def _record(self, slot: int) -> tuple[int, bytes, int]:
        """(sequence, id, bytes) of a slot's latest whole record; zeros without one."""
        start = self._slot_at(slot)
        best = (0, b"", 0)
        for at in range(start, start + self._device.erase_bytes, PAGE):
            magic, sequence, size, _ = struct.unpack_from("<4I", self._memory, at)
            if magic != RECORD or sequence <= best[0]:
                continue
            (crc,) = struct.unpack_from("<I", self._memory, at + RECORD_BYTES - 4)
            if crc == zlib.crc32(self._memory[at : at + RECORD_BYTES - 4]):
                best = (sequence, self._memory[at + 16 : at + 48], size)
        return best

    def check(self) -> None:
        """The active image, by this world's own reading of the flash, has every byte."""
        records = self._record(0), self._record(1)
        if not records[0][0] and not records[1][0]:
            self._before = (0, self._starts)
            return
        active = int(records[1][0] > records[0][0])
        sequence, image_id, size = records[active]
        start = self._slot_at(active) + self._device.erase_bytes
        new = sequence > self._before[0]
        restarted = self._before[1] != self._starts
        if new:  # it was read whole since then, unless a bit flipped meanwhile
            since = self._now if restarted else self._began
            self._flips = [
                (when, at)
                for when, at in self._flips
                if when >= since or not start <= at < start + size
            ]
        if new and self._before[0] and not restarted:
            assert image_id == self._named, "an image became active unnamed"
        self._before = (sequence, self._starts)
        if any(start <= at < start + size for _, at in self._flips):
            return  # damaged since, and the active slot is never written
        data = self._memory[start : start + size]
        if self._seen == (active, data):
            return
        copy = self._folder / "active.qimg"
        copy.write_bytes(data)
        try:
            image = Image(os.fsencode(copy))
            assert image.id == image_id, "the record is of another image"
            image.verify(0, 1 << 20)
        except EngineError as error:
            raise AssertionError(f"the active image is damaged: {error}") from error
        self._seen = (active, data)
