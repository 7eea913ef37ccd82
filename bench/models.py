"""The two models of the comparison, each in both engines' formats, made once and kept.

SmolLM2-135M comes from `qedge pull`; llama.cpp requantizes its file, and qedge keeps these very
weights.  The 1B shape has random weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qedge.toolkit.board import load
from qedge.toolkit.fetch.pull import cache_folder, pull
from qedge.toolkit.make.build import build

LLAMA_TYPES = {"q4_0": 2, "q8_0": 7, "q4_K_M": 15, "q5_K_M": 17}  # llama_ftype
CONTEXTS = {"smollm2": 4352, "1b": 1024}
SHAPE_1B = {"dim": 2048, "ffn": 8192, "layers": 16, "heads": 32, "kv_heads": 8, "vocab": 49152}


@dataclass(frozen=True, slots=True)
class Pair:
    """One model and type, for each engine."""

    name: str
    quant: str
    gguf: Path
    image: Path


def folder() -> Path:
    found = cache_folder() / "bench"
    found.mkdir(parents=True, exist_ok=True)
    return found


def write_1b(path: Path) -> None:
    """A Llama of 1.07 B random weights as an f16 GGUF, a tensor at a time."""
    import gguf

    s = SHAPE_1B
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=True)
    writer.add_block_count(s["layers"])
    writer.add_context_length(8192)
    writer.add_embedding_length(s["dim"])
    writer.add_feed_forward_length(s["ffn"])
    writer.add_head_count(s["heads"])
    writer.add_head_count_kv(s["kv_heads"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    special = ["<unk>", "<s>", "</s>"]
    count = s["vocab"] - 259
    texts = [*special, *(f"<0x{n:02X}>" for n in range(256)), *(f"w{n}" for n in range(count))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores([0.0] * s["vocab"])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * count)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(1)

    def matrix(name: str, rows: int, columns: int) -> None:
        values = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)
        writer.add_tensor(name, values.astype(np.float16))

    dim, kv = s["dim"], s["dim"] // s["heads"] * s["kv_heads"]
    matrix("token_embd.weight", s["vocab"], dim)
    writer.add_tensor("output_norm.weight", np.ones(dim, np.float32))
    for n in range(s["layers"]):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{n}.{norm}.weight", np.ones(dim, np.float32))
        for part, rows, columns in (
            ("attn_q", dim, dim),
            ("attn_k", kv, dim),
            ("attn_v", kv, dim),
            ("attn_output", dim, dim),
            ("ffn_gate", s["ffn"], dim),
            ("ffn_up", s["ffn"], dim),
            ("ffn_down", dim, s["ffn"]),
        ):
            matrix(f"blk.{n}.{part}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# llama.cpp's own quantizer: source, target, llama_ftype.
LLAMA = """
import ctypes, sys, llama_cpp as l
p = l.llama_model_quantize_default_params()
p.ftype, p.allow_requantize, p.nthread = int(sys.argv[3]), True, 2
sys.exit(l.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(p)))
"""


def requantize(source: Path, target: Path, quant: str) -> None:
    """By llama.cpp, in a process of its own because it writes to standard output."""
    import subprocess
    import sys

    part = target.with_suffix(".part")
    command = [sys.executable, "-c", LLAMA, source, part, str(LLAMA_TYPES[quant])]
    subprocess.run(command, check=True, capture_output=True)
    part.replace(target)


def source_of(name: str) -> Path:
    """The model's own file (smollm2 or 1b), made or fetched when it is missing."""
    if name == "smollm2":
        return pull("smollm2-135m").path
    source = folder() / "1b-f16.gguf"
    if not source.exists():
        part = source.with_suffix(".part")
        write_1b(part)
        part.replace(source)
    return source


def image(
    name: str, quant: str, context: int | None = None, source: Path | None = None
) -> Path:
    """qedge's image of a model (smollm2 or 1b) in a type, made when it is missing, out of its
    own file or out of one that is quantized; with a context of its own, in an image of its
    own. Rounded as ggml does: how well a model is rounded is not what is timed."""
    file = f"{name}-{quant}-{context}.qimg" if context else f"{name}-{quant}.qimg"
    path, board, context = folder() / file, load("host"), context or CONTEXTS[name]
    if source is not None:
        build(source, board, path, quant="keep", context=context)
    else:
        rounding = "ggml" if quant in ("q4_0", "q8_0") else "search"
        build(source_of(name), board, path, quant=quant, context=context, rounding=rounding)
    return path


def pair(name: str, quant: str, context: int | None = None) -> Pair:
    """The files of a model in a type for both engines, with the very same weights: qedge takes
    llama.cpp's over."""
    gguf = folder() / f"{name}-{quant}.gguf"
    if not gguf.exists():
        requantize(source_of(name), gguf, quant)
    return Pair(name, quant, gguf, image(name, quant, context, gguf))
