"""Instructions a token on microcontrollers, counted: the firmware itself, on emulated boards.

    python bench/mcu.py [--boards pico,mps2-m4] [--quants q8_0,q4_0] [--depth 32]
                        [--runq RUNQ.c] [--json FILE] [--csv FILE]

commander is flashed, and decoding 4 and 20 tokens is counted by function; the difference is 16
tokens.  QEMU's boards count instructions (a TCG plugin), the Pico cycles as rp2040js has them.
Floats are float routines where there is no float unit, and instructions with floats in them
(products, conversions, loads) where there is one; either way they count for no other column.
What thumb.c does with integers instead counts for matrices, attention's too.  --runq:
llama2.c's runq.c, fetched by you; its forward pass of a model of the same shape is built with
the same compiler and counted on the Cortex-M4.
"""

from __future__ import annotations

import argparse
import bisect
import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import mcu_runq
from arm import build_plugin
from common import stamp, write_csv, write_json

from qedge.toolkit.bare.firmware import Firmware
from qedge.toolkit.bare.firmware import build as build_firmware
from qedge.toolkit.board import Board, load
from qedge.toolkit.demo import commander
from qedge.toolkit.device import remote
from qedge.toolkit.emulators.bare import Emulator, preload
from qedge.toolkit.make.build import build

BOARDS = ("pico", "mps2-m3", "mps2-m4", "mps2-m7", "mps3-m55")
TOKENS = (4, 20)
MATRICES = {
    *("matmul", "qe_portable_matmul", "product_chunk", "run_products", "add_any_block"),
    *("sums_apart", "sums_whole", "sums_halves", "sums_q8_apart", "nibbles_of_both"),
    *("soft_half", "soft_product", "soft_sum"),
}
ATTENTION = {
    *("score_q8", "mix_q8", "weigh_q8", "softmax", "attend_chunk", "attend_q8", "store_chunk"),
    *("qe_attend", "qe_portable_score_q8", "qe_portable_mix_q8", "quantize_key", "rotate"),
}
LINE = {"port_read", "port_write", "frame_take", "take_digit", "frame_send", "put_quad"}


def groups_of(name: str) -> str | None:
    """The column that a function counts for; None: not of the forward pass."""
    plain = name.removeprefix("floats in ")
    inside = plain != name
    plain = plain.split(".")[0]
    if plain in LINE or plain in ("qe_sha256_update", "compress"):
        return None
    if (
        inside
        or "aeabi" in plain
        or (plain.startswith("__") and plain.endswith(("sf3", "sf2", "sisf")))
    ):
        return "floats"
    return "matrices" if plain in MATRICES else "attention" if plain in ATTENTION else "rest"


def functions(program: Path) -> tuple[list[int], list[str]]:
    done = subprocess.run(
        ["arm-none-eabi-nm", "-n", program], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    found = [(int(r[0], 16) & ~1, r[2]) for r in rows if len(r) == 3 and r[1] in "tTwW"]
    found = [(address, name) for address, name in found if not name.startswith("$")]
    return [address for address, _ in found], [name for _, name in found]


def float_instructions(program: Path) -> dict[int, bool]:
    """Whether the instruction at an address has to do with floats."""
    done = subprocess.run(
        ["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", program],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {}
    for line in done.stdout.splitlines():
        if match := re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            address, name, operands = match.groups()
            found[int(address, 16)] = name.startswith("v") and bool(
                re.search(r"\.f(16|32)", name) or re.search(r"\bs\d+\b|fpscr", operands)
            )
    return found


def counted(board: Board, firmware: Firmware, place: Path, depth: int) -> list[Counter[str]]:
    """Counters by function for each of TOKENS."""
    addresses, names = functions(firmware.path)
    of_floats = float_instructions(firmware.path)
    order = sorted(of_floats)
    found = []
    with Emulator(board, place, firmware=firmware) as emulator:
        assert emulator.hello().active == 0  # it takes up what is preloaded
    for tokens in TOKENS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "counts"
            options = ["-plugin", f"{build_plugin()},out={out}"]
            if board.name == "pico":
                os.environ["QEDGE_COUNT"], options = str(out), []
            with Emulator(board, place, firmware=firmware, options=options) as emulator:
                device = emulator.connect()
                remote.bench(device, prompt_tokens=1, decode_tokens=tokens, depth=depth)
                device.close()
            os.environ.pop("QEDGE_COUNT", None)
            counter: Counter[str] = Counter()
            for line in out.read_text().splitlines():
                fields = line.split()
                address, count = int(fields[0], 16), int(fields[1])
                length = int(fields[2]) if len(fields) > 2 else 1  # rp2040js: each by itself
                name = names[bisect.bisect_right(addresses, address) - 1]
                first = bisect.bisect_left(order, address)
                inside = sum(of_floats[at] for at in order[first : first + length])
                counter[name] += count - count // length * inside
                counter[f"floats in {name}"] += count // length * inside
            found.append(counter)
    return found


def measure(name: str, quant: str, depth: int, portable: bool) -> dict[str, Any]:
    board = load(name)
    firmware = build_firmware(board, flags=["-DQE_PORTABLE_ONLY"] if portable else [])
    with tempfile.TemporaryDirectory() as folder:
        image = build(commander(), board, Path(folder) / "image.qimg", quant=quant).image
        place = Path(folder) / "flash.bin"
        preload(place, board, image)
        few, many = counted(board, firmware, place, depth)
    split: Counter[str] = Counter()
    for function in many:
        if (group := groups_of(function)) is not None:
            split[group] += many[function] - few[function]
    tokens = TOKENS[1] - TOKENS[0]
    row: dict[str, Any] = {
        "board": name,
        "kernels": "portable" if portable else board.kernels,
        "quant": quant,
        "unit": "cycles" if name == "pico" else "instructions",
        "total": round(sum(split.values()) / tokens),
    }
    for group in ("matrices", "attention", "floats", "rest"):
        row[group] = round(split[group] / tokens)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boards", default=",".join(BOARDS))
    parser.add_argument("--quants", default="q8_0,q4_0")
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--runq", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"{stamp()['processor']}; commander, a token at depth {options.depth} to +20")
    for name in options.boards.split(","):
        for quant in options.quants.split(","):
            for portable in (False, True):
                row = measure(name, quant, options.depth, portable)
                rows.append(row)
                print(
                    "  ".join(
                        f"{k} {v:,}" if isinstance(v, int) else str(v) for k, v in row.items()
                    ),
                    flush=True,
                )
    if options.runq is not None:
        row = mcu_runq.measure(options.runq, options.depth, TOKENS)
        rows.append(row)
        print(
            "  ".join(f"{k} {v:,}" if isinstance(v, int) else str(v) for k, v in row.items()),
            flush=True,
        )
    write_json(options.json, {"about": stamp(), "rows": rows})
    write_csv(options.csv, rows, stamp())


if __name__ == "__main__":
    main()
