"""A model whose file is quantized, kept as it is, computes what the same weights in f32 do, but
for the rounding of activations to int8."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime import Model
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build

CONFIG = TinyConfig(layers=2, dim=256, ffn=512, context=32)
TOKENS = [(7 * n + 3) % 250 for n in range(24)]
# Where a block's f16 scales lie (ggml-common.h), and of types with a minimum its scale over the
# other one, so that the middle level is about zero.
SCALES: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
    "Q1_0": (0,),
    "MXFP4": (),
}
MIDDLE = {"Q4_1": -7.5, "Q5_1": -15.5, "Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}
TERNARY = np.array([n for n in range(256) if not n & n >> 1 & 0x55], np.uint8)
SIZES = {"Q1_0": (128, 18)}  # weights and bytes: gguf-py reads none of it


def values_of(stored: np.ndarray, kind: str) -> np.ndarray:
    if kind != "Q1_0":
        return np.asarray(gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[kind]))
    blocks = stored.reshape(len(stored), -1, 18)
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
    bits = np.unpackbits(blocks[..., 2:], axis=-1, bitorder="little").astype(np.float32)
    return np.asarray((bits * 2 - 1) * scales).reshape(len(stored), -1)


def blocks_of(kind: str, rows: int, columns: int, seed: int) -> np.ndarray:
    """Rows of random levels, with scales that give their weights a size of about 0.06."""
    rng = np.random.default_rng(seed)
    weights, size = SIZES.get(kind) or gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    found = rng.integers(0, 256, (rows, columns // weights, size), np.uint8)
    if kind == "TQ2_0":  # -1, 0 and 1 alone: about zero too
        found = rng.choice(TERNARY, found.shape)

    def set_scales(d: np.ndarray) -> np.ndarray:
        for at, factor in zip(SCALES[kind], (1.0, MIDDLE.get(kind, 0.0)), strict=False):
            found[..., at : at + 2] = (d * factor).astype("<f2").view(np.uint8)
        return found.reshape(rows, -1)

    if kind == "MXFP4":  # a power of two
        found[..., 0] = rng.integers(120, 123, found.shape[:2])
    spread = values_of(set_scales(np.ones((*found.shape[:2], 1))), kind).std()
    return set_scales(0.06 / spread * rng.uniform(0.8, 1.2, (*found.shape[:2], 1)))


def logits(path: Path, folder: Path, quant: str) -> np.ndarray:
    image = folder / f"{quant}.qimg"
    build(path, load("host"), image, quant=quant, context=32, kv="f32")
    with Model.open(image, threads=1) as model:
        rows = []
        for token in TOKENS:
            model.evaluate([token])
            rows.append(np.array(model.logits()))
        return np.array(rows)


@pytest.mark.parametrize("kind", SCALES)
def test_kept_weights_compute_what_the_same_weights_in_f32_do(
    kind: str, tmp_path: Path
) -> None:
    weights = make_weights(5, CONFIG)
    raw = {}
    for number, (name, values) in enumerate(weights.items()):
        if name.startswith("blk.") and values.ndim == 2:
            raw[name] = (blocks_of(kind, values.shape[0], values.shape[1], number), kind)
    plain = weights | {name: values_of(stored, kind) for name, (stored, _) in raw.items()}
    rest = {name: values for name, values in weights.items() if name not in raw}
    kept = write_gguf(tmp_path / "kept.gguf", CONFIG, rest, raw=raw)
    exact = write_gguf(tmp_path / "exact.gguf", CONFIG, plain)
    found, truth = logits(kept, tmp_path, "keep"), logits(exact, tmp_path, "f32")
    error = np.sqrt(np.mean((found - truth) ** 2)) / truth.std()
    # Rounding to 255 levels a block of 32 gives 0.018 to 0.023; a wrong level or scale gives 1.
    assert 0.01 < error < 0.03, error
    assert np.mean(found.argmax(1) == truth.argmax(1)) > 0.9
