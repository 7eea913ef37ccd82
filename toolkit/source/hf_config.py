"""config.json of a Llama, as transformers' LlamaConfig and MistralConfig write it.

A setting that would change the graph is refused here by name; defaults are transformers' own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.mapped import read_json
from qedge.toolkit.source.model import ModelConfig, RopeScaling

CONFIG = "config.json"
# Architectures with exactly Llama's graph, once the settings below are off.
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
# Setting -> the values under which the graph is Llama's.
ONLY = {
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
}
UNTRAINED_ROPE_BASE = 10000.0
DEFAULT_NORM_EPS = 1e-6


def read_config(folder: Path) -> ModelConfig:
    """The configuration, unchecked for range; ImageError when it is no Llama."""
    path = folder / CONFIG
    settings = _Settings(read_json(path), path)
    architecture = settings.architecture()
    for key, allowed in ONLY.items():
        value = settings.values.get(key)
        if not any(value is item or (value == item and item is not None) for item in allowed):
            raise ImageError(f"{path}: {key} is {value!r:.60}; only {allowed[0]} is supported")
    dim = settings.integer("hidden_size")
    heads = settings.integer("num_attention_heads")
    context = settings.integer("max_position_embeddings")
    window = settings.integer("sliding_window", context)
    if window < context and settings.values.get("use_sliding_window") is not False:
        raise ImageError(
            f"{path}: sliding_window is {window} of {context} positions; "
            "sliding attention is not supported"
        )
    if settings.values.get("head_dim") is None and (heads < 1 or dim % heads):
        raise ImageError(f"{path}: {heads} heads do not divide a hidden_size of {dim}")
    rope = settings.rope()
    return ModelConfig(
        architecture=architecture,
        name=folder.resolve().name,
        layers=settings.integer("num_hidden_layers"),
        dim=dim,
        ffn=settings.integer("intermediate_size"),
        heads=heads,
        kv_heads=settings.integer("num_key_value_heads", heads),
        head_size=settings.integer("head_dim", dim // max(heads, 1)),
        vocab_size=settings.integer("vocab_size"),
        context=context,
        norm_eps=settings.number("rms_norm_eps", DEFAULT_NORM_EPS),
        rope_base=rope.number("rope_theta", UNTRAINED_ROPE_BASE),
        rope_scaling=rope.scaling(),
        tied=settings.flag("tie_word_embeddings"),
    )


class _Settings:
    """Typed access to one JSON object; null counts as absent, as it does for transformers."""

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    def architecture(self) -> str:
        names = self.values.get("architectures")
        name = names[0] if isinstance(names, list) and len(names) == 1 else names
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise ImageError(
                f"{self.path}: the architecture is {name!r:.80}; "
                f"supported are {', '.join(ARCHITECTURES)}"
            )
        return "llama"

    def get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise ImageError(f"{self.path}: {key} is missing")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if type(value) is not int:
            raise ImageError(f"{self.path}: {key} is {value!r:.60}, not a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if type(value) not in (int, float) or abs(value) > 1e300:
            raise ImageError(f"{self.path}: {key} is {value!r:.60}, not a number of use")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.get(key, False)
        if type(value) is not bool:
            raise ImageError(f"{self.path}: {key} is {value!r:.60}, not true or false")
        return value

    def rope(self) -> _Settings:
        """rope_parameters, or rope_scaling and rope_theta, as one object."""
        parts: dict[str, Any] = {}
        for key in ("rope_scaling", "rope_parameters"):
            part = self.get(key, {})
            if not isinstance(part, dict):
                raise ImageError(f"{self.path}: {key} is {part!r:.60}, not an object")
            parts.update(part)
        if "rope_theta" not in parts:
            parts["rope_theta"] = self.values.get("rope_theta")
        return _Settings(parts, self.path)

    def scaling(self) -> RopeScaling | None:
        kind = self.get("rope_type", self.get("type", "default"))
        if kind == "default":
            return None
        if kind == "linear":
            return RopeScaling("linear", factor=self.number("factor"))
        if kind == "llama3":
            return RopeScaling(
                "llama3",
                factor=self.number("factor"),
                low_freq_factor=self.number("low_freq_factor"),
                high_freq_factor=self.number("high_freq_factor"),
                original_context=self.integer("original_max_position_embeddings"),
            )
        raise ImageError(
            f"{self.path}: rope type {kind!r:.60} is not supported; default, linear and "
            "llama3 are"
        )
