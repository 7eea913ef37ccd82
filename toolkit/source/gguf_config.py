"""The configuration of a Llama in a GGUF: the `llama.` keys of its metadata, one by one.

Keys are those of ggml's docs/gguf.md and llama.cpp's `llama` architecture.  A value that would
change the graph is refused by name.  Tensors are gguf_file.py's matter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.locate import model_name
from qedge.toolkit.source.model import Bound, ModelConfig, RopeScaling, SourceTensor

ARCHITECTURE = "llama"
ROPE_FACTORS = "rope_freqs.weight"
DEFAULT_ROPE_BASE = 10000.0  # llama.cpp's, when the key is absent
# Keys that change the graph: a value other than those that mean "off" is refused.
UNSUPPORTED_KEYS: dict[str, tuple[object, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "leading_dense_block_count": (0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "attention.temperature_length": (0,),
    "attention.temperature_scale": (0.0,),
    "rope.scaling.attn_factor": (1.0, 0.0),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "logit_scale": (1.0, 0.0),
    "residual_scale": (1.0, 0.0),
    "embedding_scale": (1.0, 0.0),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
    "pooling_type": (0,),
    "nextn_predict_layers": (0,),
}


class Keys:
    """Typed access to the `llama.` keys of one file, and what they mean."""

    def __init__(self, metadata: dict[str, object], path: Path) -> None:
        self.metadata = metadata
        self.path = path

    def config(
        self, tensors: dict[str, SourceTensor], factors: SourceTensor | None
    ) -> ModelConfig:
        for key, allowed in UNSUPPORTED_KEYS.items():
            self.only(key, allowed)
        dim = self.integer("embedding_length")
        heads = self.integer("attention.head_count")
        head_size = self.head_size(dim, heads)
        self.check_scale(head_size)
        return ModelConfig(
            architecture=ARCHITECTURE,
            name=self.name(),
            layers=self.integer("block_count"),
            dim=dim,
            ffn=self.integer("feed_forward_length"),
            heads=heads,
            kv_heads=self.integer("attention.head_count_kv", heads),
            head_size=head_size,
            vocab_size=self.vocab_size(tensors),
            context=self.integer("context_length"),
            norm_eps=self.number("attention.layer_norm_rms_epsilon"),
            rope_base=self.number("rope.freq_base", DEFAULT_ROPE_BASE),
            rope_scaling=self.rope_scaling(factors),
            tied="output.weight" not in tensors,
            bound=self.window(),
        )

    def only(self, key: str, allowed: tuple[object, ...]) -> None:
        """ImageError unless the key is absent, or one of the values allowed."""
        value = self.metadata.get(f"{ARCHITECTURE}.{key}", allowed[0])
        plain = isinstance(value, (bool, int, float))
        number = isinstance(value, bool) == isinstance(allowed[0], bool)
        if not (plain and number and value in allowed):
            raise ImageError(
                f"{self.path}: {ARCHITECTURE}.{key} is {value!r:.60}; "
                f"only {allowed[0]} is supported"
            )

    def check_scale(self, head_size: int) -> None:
        """Attention is scaled by the root of the head's size; 0 means that, too."""
        scale = self.number("attention.scale", 0.0)
        if scale and not abs(scale * head_size**0.5 - 1) < 1e-5:
            raise ImageError(
                f"{self.path}: {ARCHITECTURE}.attention.scale is {scale:g}; only that of a "
                f"head of {head_size}, {head_size**-0.5:g}, is supported"
            )

    def window(self) -> Bound | None:
        """The sliding window; 0 is none."""
        positions = self.integer("attention.sliding_window", 0)
        return Bound.window(positions, self.path) if positions else None

    def name(self) -> str:
        name = self.metadata.get("general.name", "")
        if not isinstance(name, str):
            raise ImageError(f"{self.path}: general.name is not text; the file is damaged")
        return name or model_name(self.path)

    def integer(self, key: str, default: int | None = None) -> int:
        """A count; one for each layer is accepted when all are equal."""
        key = f"{ARCHITECTURE}.{key}"
        value = self.metadata.get(key, default)
        if isinstance(value, np.ndarray) and value.size:
            if (value != value[0]).any():
                raise ImageError(f"{self.path}: {key} differs from layer to layer")
            value = value[0].item()
        if value is None:
            raise ImageError(f"{self.path}: {key} is missing; the file is not a complete model")
        if type(value) is not int:
            raise ImageError(f"{self.path}: {key} is {value!r:.60}, not a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        key = f"{ARCHITECTURE}.{key}"
        value = self.metadata.get(key, default)
        if value is None:
            raise ImageError(f"{self.path}: {key} is missing; the file is not a complete model")
        if type(value) is int or type(value) is float:
            return float(value)
        raise ImageError(f"{self.path}: {key} is {value!r:.60}, not a number")

    def head_size(self, dim: int, heads: int) -> int:
        if heads < 1 or ("llama.attention.key_length" not in self.metadata and dim % heads):
            raise ImageError(f"{self.path}: {heads} heads do not divide a dim of {dim}")
        size = self.integer("attention.key_length", dim // heads)
        for key in ("attention.value_length", "rope.dimension_count"):
            other = self.integer(key, size)
            if other != size:
                raise ImageError(
                    f"{self.path}: {ARCHITECTURE}.{key} is {other}, a head is {size}; "
                    "partly rotated or unequal heads are not supported"
                )
        return size

    def vocab_size(self, tensors: dict[str, SourceTensor]) -> int:
        """Rows of the embedding, which the vocabulary and its key must agree with."""
        embedding = tensors.get("token_embd.weight")
        if embedding is None:
            raise ImageError(f"{self.path}: tensor token_embd.weight is missing")
        counts = {f"{ARCHITECTURE}.vocab_size": self.integer("vocab_size", embedding.rows)}
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, list):
            counts["tokenizer.ggml.tokens"] = len(tokens)
        for key, count in counts.items():
            if count != embedding.rows:
                raise ImageError(
                    f"{self.path}: {key} counts {count} tokens, token_embd.weight has "
                    f"{embedding.rows} rows"
                )
        return embedding.rows

    def rope_scaling(self, factors: SourceTensor | None) -> RopeScaling | None:
        kind = self.metadata.get(f"{ARCHITECTURE}.rope.scaling.type", "linear")
        factor = self.number("rope.scaling.factor", self.number("rope.scale_linear", 1.0))
        if not isinstance(kind, str):
            raise ImageError(f"{self.path}: {ARCHITECTURE}.rope.scaling.type is not text")
        if kind == "none" or factor in (0.0, 1.0):  # llama.cpp takes 0 as "not scaled"
            factor = 1.0
        elif kind != "linear":
            raise ImageError(
                f"{self.path}: rope scaling {kind!r:.60} is not supported; "
                "linear, llama3 and explicit factors are"
            )
        if factors is None:
            return None if factor == 1.0 else RopeScaling("linear", factor=factor)
        if factor != 1.0:
            raise ImageError(f"{self.path}: has both {ROPE_FACTORS} and a rope scaling factor")
        if factors.rows != 1 or factors.source_type != "F32":
            raise ImageError(f"{self.path}: {ROPE_FACTORS} is not a vector of F32")
        return RopeScaling("factors", factors=tuple(factors.read(0, 1)[0].tolist()))
