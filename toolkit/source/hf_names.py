"""Names of a Hugging Face checkpoint's tensors, as GGUF has them.

Programs wrap a model before they save it, and their wrappers' names stay: torch.compile
(_orig_mod), DataParallel and DeepSpeed (module), FSDP.  They say nothing of the weights and are
taken off; every tensor must still be one of the graph's.  No tensor is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

WHOLE_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
LAYER_NAME = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,5})\.(.+)\.weight", re.ASCII)
# A constant that old checkpoints carry along.
IGNORED = re.compile(r"(model\.)?(layers\.[0-9]+\.self_attn\.)?rotary_emb\.inv_freq", re.ASCII)
WRAPPERS = frozenset(
    {
        "_orig_mod",
        "module",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
    }
)
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """transformers' own name of each tensor's name in the files: wrappers are taken off, and
    what stands before the embedding's name becomes `model.`."""
    bare = {name: _unwrapped(name) for name in names}
    ends = {
        name for name in bare.values() if name == EMBEDDING or name.endswith("." + EMBEDDING)
    }
    if len(ends) != 1:  # none or several: the graph's check names what is wrong
        return bare
    before = ends.pop().removesuffix(EMBEDDING)
    if before == "model.":
        return bare
    heads = {before + HEAD, before.removesuffix("model.") + HEAD}
    return {name: _moved(found, before, heads) for name, found in bare.items()}


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _moved(name: str, before: str, heads: set[str]) -> str:
    if name in heads:
        return HEAD
    return "model." + name.removeprefix(before) if name.startswith(before) else name


def canonical(name: str) -> str:
    """GGUF's name; a name that has none is kept, so that an error can say it."""
    layer = LAYER_NAME.fullmatch(name)
    if layer and layer[2] in LAYER_NAMES:
        return f"blk.{layer[1]}.{LAYER_NAMES[layer[2]]}.weight"
    return WHOLE_NAMES.get(name, name)
