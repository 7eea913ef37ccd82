"""llama2.c's runq.c on a Cortex-M4, to measure against: the file is fetched by whoever runs
this, and only its forward pass runs, on weights of commander's shape."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from qedge.toolkit.board import device_of, load

GROUP = 64  # of its quantization; llama2.c's own default
DIM, FFN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT = 128, 320, 3, 4, 2, 512, 96
WEIGHTS_AT = 0x21000000

HARNESS = r"""
#define TESTING
#include "runq.c"
static Transformer t;
static char *heap_at = (char *)0x20100000;
void *_sbrk(int bytes) { char *old = heap_at; heap_at += (bytes + 7) & ~7; return old; }
int main(void)
{
    char *data = (char *)WEIGHTS_AT;
    t.config = (Config){DIM, FFN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT};
    GS = GROUP;
    memory_map_weights(&t.weights, &t.config, data, 1);
    malloc_run_state(&t.state, &t.config);
    int token = 1;
    for (int pos = 0; pos < DEPTH + TOKENS; pos++) {
        float *logits = forward(&t, token, pos);
        token = (pos * 37 + (logits[0] > 0)) % VOCABULARY;
    }
    exit(0);
}
"""


SCRIPT = """
MEMORY { CODE (rx) : ORIGIN = 0, LENGTH = 4M  RAM (rwx) : ORIGIN = 0x20000000, LENGTH = 1M }
ENTRY(start)
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > CODE
  .ARM.exidx : { *(.ARM.exidx*) } > CODE
  .data : { *(.data*) } > RAM
  .bss : { *(.bss*) *(COMMON) } > RAM
  end = .;
}
"""


def weights(seed: int = 1) -> bytes:
    """A version-2 checkpoint's body: norms, then tensors as int8 with a float scale a group."""
    chance = np.random.default_rng(seed)
    out = [np.ones((2 * LAYERS + 1) * DIM, "<f4").tobytes()]
    kv = DIM * KV_HEADS // HEADS
    shapes = [(1, VOCABULARY * DIM)]
    shapes += [(LAYERS, n) for n in (DIM * DIM, DIM * kv, DIM * kv, DIM * DIM)]
    shapes += [(LAYERS, n) for n in (DIM * FFN, FFN * DIM, DIM * FFN)]
    for count, size in shapes:
        for _ in range(count):
            out.append(chance.integers(-127, 128, size, "i1").tobytes())
            out.append(np.full(size // GROUP, 0.05 / 127, "<f4").tobytes())
    return b"".join(out)


def run(source: Path, depth: int, tokens: int, folder: Path) -> int:
    """Instructions of depth + tokens tokens, all in all."""
    from arm import build_plugin

    device = device_of(load("mps2-m4"))
    (folder / "sys").mkdir(exist_ok=True)
    (folder / "sys" / "mman.h").write_text(
        "#define PROT_READ 1\n#define MAP_PRIVATE 2\n#define MAP_FAILED ((void *)-1)\n"
        "#include <stddef.h>\nvoid *mmap(void *, size_t, int, int, int, long);\n"
        "int munmap(void *, size_t);\n"
    )
    (folder / "main.c").write_text(HARNESS)
    (folder / "board.ld").write_text(SCRIPT)
    (folder / "start.c").write_text(
        "int main(void); void start(void) { *(volatile unsigned *)0xE000ED88 |= 0xFu << 20; "
        '__asm volatile("dsb\\nisb"); main(); for (;;); }\n'
        '__attribute__((section(".vectors"), used)) static const void *const vectors[] = '
        "{(void *)0x200F0000, (const void *)start};\n"
    )
    constants = {
        "WEIGHTS_AT": WEIGHTS_AT, "DIM": DIM, "FFN": FFN, "LAYERS": LAYERS, "HEADS": HEADS,
        "KV_HEADS": KV_HEADS, "VOCABULARY": VOCABULARY, "CONTEXT": CONTEXT, "GROUP": GROUP,
        "DEPTH": depth, "TOKENS": tokens,
    }  # fmt: skip
    (folder / "weights.bin").write_bytes(weights())
    program, out = folder / "runq.elf", folder / "counts"
    command = ["arm-none-eabi-gcc", "-mthumb", *device.cpu, "-O3", "-w", "-ffunction-sections"]
    command += [f"-D{name}={value}" for name, value in constants.items()]
    command += [f"-I{folder}", f"-I{source.resolve().parent}", str(folder / "main.c")]
    command += [str(folder / "start.c"), "-nostartfiles", "--specs=rdimon.specs"]
    command += ["-Wl,--gc-sections,--no-warn-rwx-segments", f"-Wl,-T,{folder / 'board.ld'}"]
    subprocess.run([*command, "-lm", "-o", str(program)], check=True)
    subprocess.run(
        [
            *("qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-monitor", "none"),
            *("-semihosting", "-kernel", str(program), "-serial", "none"),
            *(
                "-device",
                f"loader,file={folder / 'weights.bin'},addr={WEIGHTS_AT:#x},force-raw=on",
            ),
            *("-plugin", f"{build_plugin()},out={out}"),
        ],
        check=True,
        timeout=300,
    )
    return sum(int(line.split()[1]) for line in out.read_text().splitlines())


def measure(source: Path, depth: int, tokens: tuple[int, int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        few, many = (run(source, depth, n, Path(name)) for n in tokens)
    return {
        "board": "mps2-m4",
        "kernels": "llama2.c runq",
        "quant": f"q8, groups of {GROUP}",
        "unit": "instructions",
        "total": round((many - few) / (tokens[1] - tokens[0])),
    }
