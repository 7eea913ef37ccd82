"""config.json of a Llama, as transformers' LlamaConfig and MistralConfig write it.

A setting that would change the graph is refused here by name; one that changes nothing, or
nothing within some length, is not.  Defaults are transformers' own.  Rotary embeddings are
hf_rope.py's matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.hf_rope import read_rope
from qedge.toolkit.source.locate import model_name
from qedge.toolkit.source.model import Bound, ModelConfig, shortest
from qedge.toolkit.source.opened import read_json
from qedge.toolkit.source.settings import Settings
from qedge.toolkit.source.strangers import refuse_quantized

CONFIG = "config.json"
# Architectures with exactly Llama's graph, once the settings below are off.
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
MODEL_TYPES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
# Setting -> the values under which the graph is Llama's.  attention_bias and mlp_bias are not
# here: the tensors say whether there are biases.
ONLY: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish", None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_decoder": (True, False, None),
    # of relatives whose files call themselves Llama
    "num_local_experts": (0, 1, None),
    "num_experts": (0, 1, None),
    "n_routed_experts": (0, None),
    "embedding_multiplier": (1, None),
    "residual_multiplier": (1, None),
    "logits_scaling": (1, None),
    "logit_scale": (1, None),
    "scale_emb": (1, None),
    "final_logit_softcapping": (0, None),
    "attn_logit_softcapping": (0, None),
    "clip_qkv": (0, None),
    "qk_norm": (False, None),
    "use_qk_norm": (False, None),
    "alibi": (False, None),
    "parallel_attn": (False, None),
    "no_rope_layers": ([], None),
}
FULL, SLIDING = "full_attention", "sliding_attention"
MISTRAL_WINDOW = 4096  # MistralConfig's, when the key is absent; null is none
DEFAULT_NORM_EPS = 1e-6


def read_config(folder: Path) -> ModelConfig:
    """The configuration, unchecked for range; ImageError when it is no Llama."""
    path = folder / CONFIG
    settings = Settings(read_json(path), path)
    architecture = _architecture(settings)
    refuse_quantized(settings.values, path)
    for key, allowed in ONLY.items():
        settings.only(key, allowed)
    dim = settings.integer("hidden_size")
    heads = settings.integer("num_attention_heads")
    context = settings.integer("max_position_embeddings")
    if settings.values.get("head_dim") is None and (heads < 1 or dim % heads):
        raise ImageError(f"{path}: {heads} heads do not divide a hidden_size of {dim}")
    head_size = settings.integer("head_dim", dim // max(heads, 1))
    rope = read_rope(settings, context, head_size)
    return ModelConfig(
        architecture="llama",
        name=model_name(folder),
        layers=settings.integer("num_hidden_layers"),
        dim=dim,
        ffn=settings.integer("intermediate_size"),
        heads=heads,
        kv_heads=settings.integer("num_key_value_heads", heads),
        head_size=head_size,
        vocab_size=settings.integer("vocab_size"),
        context=context,
        norm_eps=settings.number("rms_norm_eps", DEFAULT_NORM_EPS),
        rope_base=rope.base,
        rope_scaling=rope.scaling,
        tied=settings.flag("tie_word_embeddings"),
        bound=shortest(_window(settings, architecture), rope.bound),
    )


def _architecture(settings: Settings) -> str:
    names = settings.values.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if not name:  # then transformers goes by the type, and so do we
        kind = settings.values.get("model_type")
        name = MODEL_TYPES.get(kind) if isinstance(kind, str) else None
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ImageError(
            f"{settings.path}: the architecture is {name!r:.80}; "
            f"supported are {', '.join(ARCHITECTURES)}"
        )
    return name


def _window(settings: Settings, architecture: str) -> Bound | None:
    """The sliding window, within which attention is Llama's; None when there is none.

    transformers' LlamaModel knows no window at all, others that read such files do: within the
    window all of them agree."""
    kinds = settings.values.get("layer_types")
    if kinds is not None:
        odd = (
            [kind for kind in kinds if kind not in (FULL, SLIDING)]
            if _is_list(kinds)
            else [kinds]
        )
        if odd:
            raise ImageError(
                f"{settings.path}: layer_types has {odd[0]!r:.60}; only {FULL} is supported, "
                f"and {SLIDING} within its window"
            )
        if SLIDING not in kinds:
            return None
    if settings.values.get("use_sliding_window") is False:
        return None
    default = MISTRAL_WINDOW if architecture == "MistralForCausalLM" else None
    if settings.values.get("sliding_window", default) is None:
        return None
    return Bound.window(settings.integer("sliding_window", default), settings.path)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)
