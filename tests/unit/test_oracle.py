"""The forward pass against numpy in float64, written from the model's equations alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime import Model
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build

CASES = {
    "grouped heads": TinyConfig(),
    "one key-value head for each": TinyConfig(kv_heads=8),
    "padded rows, separate output": TinyConfig(ffn=172, tied=False, layers=3),
    "heads of 16": TinyConfig(heads=4, kv_heads=2, dim=64, head_size=16),
    "heads wider than the model": TinyConfig(heads=4, kv_heads=2, dim=64, head_size=32),
}


def oracle(config: TinyConfig, weights: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """Logits (tokens, vocab) of a Llama, float64 throughout."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    hs, group, count = config.head, config.heads // config.kv_heads, len(tokens)

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return (
            x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps) * weight.reshape(-1)
        )

    def turn(x: np.ndarray) -> np.ndarray:  # (tokens, heads, head_size)
        angle = np.arange(count)[:, None] * config.rope_base ** (-np.arange(0, hs, 2) / hs)
        c, s = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * c - x[..., 1::2] * s
        out[..., 1::2] = x[..., 0::2] * s + x[..., 1::2] * c
        return out

    x = w["token_embd.weight"][tokens]
    for n in range(config.layers):
        at = f"blk.{n}."
        h = norm(x, w[at + "attn_norm.weight"])
        q = turn((h @ w[at + "attn_q.weight"].T).reshape(count, config.heads, hs))
        k = turn((h @ w[at + "attn_k.weight"].T).reshape(count, config.kv_heads, hs))
        v = (h @ w[at + "attn_v.weight"].T).reshape(count, config.kv_heads, hs)
        mixed = np.empty((count, config.heads, hs))
        for head in range(config.heads):
            scores = q[:, head] @ k[:, head // group].T / np.sqrt(hs)
            scores[np.triu_indices(count, 1)] = -np.inf
            e = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, head] = e / e.sum(-1, keepdims=True) @ v[:, head // group]
        x = x + mixed.reshape(count, -1) @ w[at + "attn_output.weight"].T
        h = norm(x, w[at + "ffn_norm.weight"])
        gate = h @ w[at + "ffn_gate.weight"].T
        up = h @ w[at + "ffn_up.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[at + "ffn_down.weight"].T
    out = w["token_embd.weight" if config.tied else "output.weight"]
    return norm(x, w["output_norm.weight"]) @ out.T


@pytest.mark.parametrize("case", CASES)
def test_f32_logits_equal_a_float64_oracle_at_every_position(case: str, tmp_path: Path) -> None:
    config = CASES[case]
    weights = make_weights(11, config)
    write_gguf(tmp_path / "m.gguf", config, weights)
    image = build(tmp_path / "m.gguf", load("host"), tmp_path / "m.qimg", quant="f32").image
    tokens = [int(t) for t in np.random.default_rng(2).integers(0, config.vocab_size, 70)]
    expected = oracle(config, weights, tokens)
    with Model.open(image) as model:
        rows = np.empty((len(tokens), -(-config.vocab_size // 32) * 32), np.float32)
        model.engine.eval(tokens, rows)
        found = rows[:, : config.vocab_size]
        assert np.abs(found - expected).max() < 1e-3
        assert np.array_equal(model.logits(), found[-1])
