"""Promise one: it fits, provably. Measured on the real model, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

HERE = Path(__file__).parent
MIB = 1 << 20

COUNT = """
import ctypes, sys
from qedge.runtime import Model
shim = ctypes.CDLL(None)
shim.allocations_stop.restype = ctypes.c_long
with Model.open(sys.argv[1], threads=2) as model:
    engine = model.engine
    list(model.generate("Once upon a time", 4))  # every code path has run once
    model.evaluate(model.prompt_tokens("Once upon a time there was"))
    shim.allocations_start()
    for _ in range(64):
        engine.eval((engine.sample(),))
    print(shim.allocations_stop())
    shim.allocations_start()
    bytearray(1 << 20)  # the count does count
    print(shim.allocations_stop())
"""

PEAK = """
import json, sys
{body}
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
keys = ("VmHWM", "RssAnon")
print(json.dumps({{key: int(status[key].split()[0]) * 1024 for key in keys}}))
"""

GENERATE = """
from qedge.runtime import Model
with Model.open(sys.argv[1]) as model:
    list(model.generate("Once upon a time " * 60, 64))
    arena = model.arena_bytes
"""


def memory(body: str, *arguments: object) -> dict[str, int]:
    code = PEAK.format(body=body)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def test_64_tokens_make_no_allocation_at_all(smollm2_q8: Path, tmp_path: Path) -> None:
    shim = tmp_path / "count.so"
    source = HERE / "count_allocations.c"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", source, "-o", shim], check=True)
    done = subprocess.run(
        [sys.executable, "-c", COUNT, smollm2_q8],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        check=True,
        capture_output=True,
        text=True,
    )
    tokens, control = map(int, done.stdout.split())
    assert control > 0
    assert tokens == 0


def test_peak_memory_stays_within_image_plan_and_twelve_mib(smollm2_q8: Path) -> None:
    from qedge.runtime import Model

    with Model.open(smollm2_q8) as model:
        plan = model.plan["arena_bytes"]
    bare = memory("import qedge.runtime")
    used = memory(GENERATE, smollm2_q8)
    over = used["VmHWM"] - bare["VmHWM"] - smollm2_q8.stat().st_size - plan
    print(f"peak beyond bare runtime, image and plan: {over / MIB:.1f} MiB")
    assert over < 12 * MIB
    anonymous = used["RssAnon"] - bare["RssAnon"] - plan
    print(f"anonymous beyond bare runtime and plan: {anonymous / MIB:.1f} MiB")
    assert anonymous < 12 * MIB


def test_the_constant_beside_image_and_arena_is_small(tiny_image: Path) -> None:
    """An arena of this size hides nothing, as one that is touched only in part would."""
    bare = memory("import qedge.runtime")
    used = memory(GENERATE.replace(" * 60", " * 2"), tiny_image)
    over = used["VmHWM"] - bare["VmHWM"]
    print(f"runtime's own, with a tiny image and arena: {over / MIB:.1f} MiB")
    assert over < 4 * MIB


@pytest.fixture(scope="module")
def one_billion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 1.0 B parameters whose blocks are all one random block: 2 GB of f16 that is
    quick to write."""
    path = tmp_path_factory.mktemp("billion") / "1b.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    dim, ffn, layers, heads, kv, vocab = 2048, 8192, 16, 32, 8, 49152
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(dim)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = [f"<0x{n:02X}>" for n in range(256)] + [f"w{n}" for n in range(vocab - 256)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * vocab)
    writer.add_token_types([6] * 256 + [1] * (vocab - 256))
    random = np.random.default_rng(4).standard_normal(1 << 20).astype(np.float16) * np.float16(
        0.02
    )

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, np.resize(random, rows * columns).reshape(rows, columns))

    matrix("token_embd.weight", vocab, dim)
    writer.add_tensor("output_norm.weight", np.ones(dim, np.float32))
    for n in range(layers):
        writer.add_tensor(f"blk.{n}.attn_norm.weight", np.ones(dim, np.float32))
        writer.add_tensor(f"blk.{n}.ffn_norm.weight", np.ones(dim, np.float32))
        matrix(f"blk.{n}.attn_q.weight", dim, dim)
        matrix(f"blk.{n}.attn_k.weight", kv * 64, dim)
        matrix(f"blk.{n}.attn_v.weight", kv * 64, dim)
        matrix(f"blk.{n}.attn_output.weight", dim, dim)
        matrix(f"blk.{n}.ffn_gate.weight", ffn, dim)
        matrix(f"blk.{n}.ffn_up.weight", ffn, dim)
        matrix(f"blk.{n}.ffn_down.weight", dim, ffn)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


BUILD = """
import sys
from pathlib import Path
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build
from qedge.runtime.machine import peak_rss_bytes
build(Path(sys.argv[1]), load("host"), Path(sys.argv[2]), quant="q4_0", context=512,
      rounding="ggml")
print(peak_rss_bytes())
"""


def test_building_one_billion_parameters_stays_below_1500_mb(
    one_billion: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, one_billion, tmp_path / "1b.qimg"],
        check=True,
        capture_output=True,
        text=True,
    )
    peak = int(done.stdout)
    print(f"peak while building 1 B parameters: {peak / MIB:.0f} MiB")
    assert peak < 1_500_000_000
