"""What a setting changes is refused by name, what it never changes is not: Hugging Face
folders and GGUF keys, one fact a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.source_damage import TINY, WEIGHTS, refused
from support.tiny_models import TinyConfig, hf_tensors, make_weights, write_gguf, write_hf

from qedge.runtime import ImageError, Model, UsageError
from qedge.toolkit.board import load
from qedge.toolkit.make.advise import advise
from qedge.toolkit.make.build import build
from qedge.toolkit.source.model import RopeScaling
from qedge.toolkit.source.opening import open_source

HALF = TINY.head // 2
YARN = {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 8}
LONG = {"rope_type": "longrope", "original_max_position_embeddings": 4, "attention_factor": 1.0}
LONG |= {"short_factor": [1.0] * HALF, "long_factor": [2.0] * HALF}


def folder(path: Path, **settings: Any) -> Path:
    return write_hf(path / "hf", TINY, WEIGHTS, settings=settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_act": "swish"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"attention_dropout": 0.1, "pretraining_tp": 4, "initializer_range": 0.5},
        {"partial_rotary_factor": 1.0},
        {"use_sliding_window": False, "sliding_window": 2, "max_window_layers": 28},
        {"sliding_window": None},
        {"sliding_window": 8},
        {"layer_types": ["full_attention"], "sliding_window": 2},
        {"architectures": None, "model_type": "llama"},
        {"num_local_experts": 0, "logits_scaling": 1.0, "final_logit_softcapping": None},
        {"quantization_config": None},
        {"quantization_config": {}},
        {
            "quantization_config": {
                "quant_method": "bitsandbytes",
                "load_in_4bit": False,
                "load_in_8bit": False,
            }
        },
        {"rope_scaling": {}},
        {"rope_scaling": {"type": "linear", "factor": 1.0}},
        {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2}},
        {"rope_scaling": YARN},
        {"rope_scaling": YARN | {"factor": None}},
        {"rope_scaling": YARN | {"attention_factor": 1.0, "beta_fast": 32}},
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 1.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8,
            }
        },
        {"rope_scaling": LONG | {"original_max_position_embeddings": 8}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
    ],
)
def test_a_setting_that_changes_nothing_is_read(tmp_path: Path, settings: dict) -> None:
    model = open_source(folder(tmp_path, **settings))
    assert model.config.rope_scaling is None and model.config.rope_base == 10000.0
    assert model.config.longest == TINY.context


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"partial_rotary_factor": True}, "partial_rotary_factor is True"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"layer_types": ["linear_attention"]}, "layer_types has 'linear_attention'"),
        ({"layer_types": "full_attention"}, "layer_types has 'full_attention'"),
        ({"layer_types": [["full_attention"]]}, "layer_types has ['full_attention']"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"sliding_window": "4"}, "sliding_window is '4', not a whole number"),
        ({"num_local_experts": 8}, "num_local_experts is 8; only 0 is supported"),
        ({"logits_scaling": 8.0}, "logits_scaling is 8.0"),
        ({"embedding_multiplier": 12}, "embedding_multiplier is 12"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"use_qk_norm": True}, "use_qk_norm is True"),
        ({"no_rope_layers": [1, 0]}, "no_rope_layers is [1, 0]"),
        ({"rope_scaling": YARN | {"factor": 4.0}}, "rope type 'yarn' is not supported"),
        ({"rope_scaling": YARN | {"attention_factor": 1.1}}, "rope type 'yarn'"),
        (
            {"rope_scaling": YARN | {"factor": None, "original_max_position_embeddings": 4}},
            "its factor is 2, and it changes the first positions too",
        ),
        ({"rope_scaling": LONG | {"attention_factor": 1.2}}, "scales attention"),
        ({"rope_scaling": LONG | {"attention_factor": None}}, "scales attention"),
        ({"rope_scaling": LONG | {"short_factor": [1.0]}}, f"not {HALF} numbers"),
        ({"rope_scaling": LONG | {"short_factor": ["1"] * HALF}}, "short_factor is '1'"),
        ({"rope_scaling": LONG | {"short_factor": [0.0] * HALF}}, "is 0.0; it must be"),
        ({"rope_scaling": {"rope_type": "mrope"}}, "rope type 'mrope' is not supported"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, "rope type ['yarn'] is not supported"),
        (
            {"rope_parameters": {"a": {"rope_theta": 1e4}, "b": {"rope_theta": 1e6}}},
            "rope_parameters differs from one kind of layers to another",
        ),
    ],
)
def test_a_setting_that_changes_the_graph_is_named(
    tmp_path: Path, settings: dict, message: str
) -> None:
    refused(folder(tmp_path, **settings), message)


def test_rope_parameters_of_transformers_5_are_read(tmp_path: Path) -> None:
    found = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    model = open_source(folder(tmp_path, rope_parameters=found, rope_theta=None))
    assert model.config.rope_base == 5e5
    assert model.config.rope_scaling == RopeScaling("linear", factor=2.0)


def test_rope_scaling_counts_before_rope_parameters(tmp_path: Path) -> None:
    """As transformers has it, when a file holds both."""
    both = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 1e5}
    both["rope_parameters"] = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}
    model = open_source(folder(tmp_path, **both))
    assert model.config.rope_base == 1e5
    assert model.config.rope_scaling == RopeScaling("linear", factor=2.0)


def test_longrope_has_its_short_factors_up_to_the_original_length(tmp_path: Path) -> None:
    short = [1.0 + n for n in range(HALF)]
    model = open_source(folder(tmp_path, rope_scaling=LONG | {"short_factor": short}))
    assert model.config.rope_scaling == RopeScaling("factors", factors=tuple(short))
    assert model.config.longest == 4


def windowed(tmp_path: Path, kind: str) -> Path:
    """A model that was trained for 128 tokens, with a window of 48."""
    config = TinyConfig(layers=1)
    weights = make_weights(1, config)
    if kind == "gguf":
        extra = {"llama.attention.sliding_window": 48}
        return write_gguf(tmp_path / "m.gguf", config, weights, extra=extra)
    settings: dict[str, Any] = {"sliding_window": 48}
    if kind == "mistral":
        settings["architectures"] = ["MistralForCausalLM"]
    if kind == "layer_types":
        settings["layer_types"] = ["sliding_attention", "full_attention"]
    return write_hf(tmp_path / "hf", config, weights, settings=settings)


@pytest.mark.parametrize("kind", ["gguf", "llama", "mistral", "layer_types"])
def test_a_window_is_refused_only_beyond_it(tmp_path: Path, kind: str) -> None:
    model, host = windowed(tmp_path, kind), load("host")
    plain = build(
        write_hf(
            tmp_path / "plain", TinyConfig(layers=1), make_weights(1, TinyConfig(layers=1))
        ),
        host,
        tmp_path / "plain.qimg",
        context=48,
    )
    for context in (32, 48):
        built = build(model, host, tmp_path / "m.qimg", context=context)
        assert built.plan.context == context
    with Model.open(built.image) as one, Model.open(plain.image) as other:
        assert list(one.generate([5, 6], 40)) == list(other.generate([5, 6], 40))
    assert build(model, host, tmp_path / "auto.qimg").plan.context == 48
    assert advise(model, host).choices[0].plan.context == 48
    for call in (
        lambda: build(model, host, tmp_path / "n.qimg", context=49),
        lambda: advise(model, host, 49),
    ):
        with pytest.raises(UsageError, match=r"window of 48 tokens.*take --context 48"):
            call()
    with pytest.raises(UsageError, match="trained for 128 tokens; ask for at most 48"):
        build(model, host, tmp_path / "n.qimg", context=129)


def test_a_mistral_that_names_no_window_has_4096(tmp_path: Path) -> None:
    """MistralConfig's default; null means none."""
    config = TinyConfig(layers=1, context=8192)
    settings: dict[str, Any] = {"architectures": ["MistralForCausalLM"]}
    weights = make_weights(1, config)
    path = write_hf(tmp_path / "a", config, weights, settings=settings)
    assert open_source(path).config.longest == 4096
    settings["sliding_window"] = None
    path = write_hf(tmp_path / "b", config, weights, settings=settings)
    assert open_source(path).config.longest == 8192


@pytest.mark.parametrize(
    "extra",
    [
        {"llama.attention.sliding_window": 0},
        {"llama.attention.sliding_window": 8},
        {"llama.rope.scaling.type": "none"},
        {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0},
        {"llama.rope.scaling.type": "linear"},
        {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 1.0},
        {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.original_context_length": 8},
        {"llama.rope.scale_linear": 1.0},
        {"llama.expert_count": 0, "llama.expert_used_count": 0},
        {"llama.logit_scale": 1.0, "llama.attention.causal": True},
        {"llama.attention.scale": TINY.head**-0.5},
        {"llama.attention.scale": 0.0},
        {"llama.attention.key_length": TINY.head, "llama.attention.value_length": TINY.head},
        {"split.no": 0, "split.count": 0},
        {"split.no": 0, "split.count": 1},
    ],
)
def test_a_gguf_key_that_changes_nothing_is_read(tmp_path: Path, extra: dict) -> None:
    model = open_source(write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS, extra=extra))
    assert model.config.rope_scaling is None and model.config.longest == TINY.context


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"llama.expert_count": 8}, "llama.expert_count is 8; only 0"),
        ({"llama.expert_count": False}, "llama.expert_count is False"),
        ({"llama.final_logit_softcapping": 30.0}, "llama.final_logit_softcapping is 30.0"),
        ({"llama.attention.causal": False}, "llama.attention.causal is False"),
        ({"llama.rope.scaling.attn_factor": 1.25}, "attn_factor is 1.25"),
        ({"llama.attention.scale": 0.5}, "attention.scale is 0.5; only that of a head of 8"),
        ({"llama.attention.sliding_window": "8"}, "sliding_window is '8', not a whole number"),
        ({"general.type": "adapter"}, "is a LoRA adapter; merge it into its base model first"),
        ({"general.type": "mmproj"}, "give the text model's GGUF"),
    ],
)
def test_a_gguf_key_that_changes_the_graph_is_named(
    tmp_path: Path, extra: dict, message: str
) -> None:
    refused(write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS, extra=extra), message)


def test_biases_of_zeros_add_nothing_and_others_are_named(tmp_path: Path) -> None:
    zeros = {"blk.0.attn_q.bias": np.zeros(TINY.dim, np.float32)}
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS | zeros)
    assert "blk.0.attn_q.bias" not in open_source(path).tensors
    zeros["blk.0.attn_q.bias"][3] = 1e-30
    refused(write_gguf(path, TINY, WEIGHTS | zeros), "blk.0.attn_q.bias is not part")
    hf = write_hf(tmp_path / "hf", TINY, WEIGHTS, settings={"attention_bias": True})
    from support.tiny_models import write_safetensors

    tensors = hf_tensors(TINY, WEIGHTS)
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(TINY.dim, np.float32)
    write_safetensors(hf / "model.safetensors", tensors, "F16")
    assert len(open_source(hf).tensors) == len(WEIGHTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_size": 6, "heads": 4, "kv_heads": 2}, "heads of 6; the engine takes multiples"),
        ({"norm_eps": 1.5}, "norm_eps is 1.5; the engine takes below 1"),
        ({"heads": 66, "kv_heads": 1, "head_size": 4, "dim": 264}, "64 heads to one for keys"),
    ],
)
def test_what_the_engine_cannot_take_is_the_models_fault(
    tmp_path: Path, change: dict, message: str
) -> None:
    config = TinyConfig(**({"layers": 1, "context": 8} | change))
    path = write_gguf(tmp_path / "m.gguf", config, make_weights(1, config))
    for call in (
        lambda: build(path, load("host"), tmp_path / "m.qimg", quant="f32"),
        lambda: advise(path, load("host")),
    ):
        with pytest.raises(ImageError, match=message):
            call()
