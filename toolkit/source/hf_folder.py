"""A Hugging Face folder: config.json, safetensors and a tokenizer, as transformers writes them.

Tensors get GGUF's names.  Rows of Q and K move from the half-split rotary order (i, i + half)
to adjacent pairs (2i, 2i + 1), as llama.cpp's convert_hf_to_gguf.py does for Llama.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qedge.runtime.errors import ImageError
from qedge.toolkit.source import special_tokens
from qedge.toolkit.source.hf_config import read_config
from qedge.toolkit.source.mapped import map_file, read_json
from qedge.toolkit.source.model import (
    ModelConfig,
    SourceModel,
    SourceTensor,
    check_config,
    check_tensors,
)
from qedge.toolkit.source.safetensors_file import ITEM_BYTES, StoredArray, read_table

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
# Everything that may shape the result, beside *.json and the weights.
OTHER_FILES = (TEMPLATE, "tokenizer.model")

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
IGNORED = re.compile(r"model\.layers\.[0-9]+\.self_attn\.rotary_emb\.inv_freq", re.ASCII)


def open_hf_folder(folder: Path) -> SourceModel:
    """The model of a folder; ImageError names the file and the fact that does not fit."""
    from qedge.toolkit import vocabulary

    config = read_config(folder)
    check_config(config, folder / "config.json")
    shards = _shards(folder)
    tensors: dict[str, SourceTensor] = {}
    for shard in shards:
        for name, stored in read_table(shard).items():
            if IGNORED.fullmatch(name):
                continue
            tensor = _tensor(name, stored, config, shard)
            if tensor.name in tensors:
                raise ImageError(f"{shard}: {name} is in another shard too")
            tensors[tensor.name] = tensor
    if config.tied:
        tensors.pop("output.weight", None)  # transformers ties it whatever the file says
    ordered = check_tensors(config, tensors, folder)
    words = vocabulary.from_hf(folder)
    if len(words.tokens) > config.vocab_size:
        raise ImageError(
            f"{folder}: the tokenizer has {len(words.tokens)} tokens, "
            f"the embedding {config.vocab_size} rows; take both from the same model"
        )
    template = read_chat_template(folder)
    named = special_tokens.of_folder(folder)
    return SourceModel(folder, config, words, template, ordered, _files(folder, shards), named)


def read_chat_template(folder: Path) -> str | None:
    """chat_template.jinja, else tokenizer_config.json's: text, or the list's "default"."""
    file = folder / TEMPLATE
    if file.is_file():
        try:
            return map_file(file).tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ImageError(f"{file}: is not UTF-8: {error}") from None
    settings = folder / TOKENIZER_CONFIG
    if not settings.is_file():
        return None
    template = read_json(settings).get("chat_template")
    if isinstance(template, list):
        named = {
            item.get("name"): item.get("template")
            for item in template
            if isinstance(item, dict) and isinstance(item.get("name"), str)
        }
        template = named.get("default")
    if template is None or isinstance(template, str):
        return template
    raise ImageError(f"{settings}: chat_template is neither text nor a list of named texts")


def _shards(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ImageError(
            f"{folder}: has neither {WEIGHTS} nor {INDEX}; "
            "download the safetensors files of the model"
        )
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ImageError(f"{folder / INDEX}: weight_map is missing or empty")
    names = set()
    for name in places.values():
        # A file of this folder and nothing else: an index must not lead out of it.
        if not isinstance(name, str) or not name.isprintable() or Path(name).name != name:
            raise ImageError(f"{folder / INDEX}: {name!r:.80} is no file name of a shard")
        names.add(name)
    return [folder / name for name in sorted(names)]


def _tensor(name: str, stored: StoredArray, config: ModelConfig, path: Path) -> SourceTensor:
    """The tensor under GGUF's name and in its row order, where it lies in the file."""
    item_bytes = ITEM_BYTES.get(stored.type_name)
    if item_bytes is None:
        raise ImageError(
            f"{path}: {name:.80} has type {stored.type_name:.20}; "
            "F32, F16 and BF16 are supported, so fetch the unquantized model"
        )
    if len(stored.shape) not in (1, 2) or 0 in stored.shape:
        raise ImageError(f"{path}: {name:.80} has shape {stored.shape}, not a matrix")
    columns = stored.shape[-1]
    rows = stored.shape[0] if len(stored.shape) == 2 else 1
    data = stored.data.reshape(rows, columns * item_bytes)
    order = None
    rotary = name.endswith((".self_attn.q_proj.weight", ".self_attn.k_proj.weight"))
    if rotary and rows % config.head_size == 0:  # else check_tensors refuses the height
        order = pair_order(rows, config.head_size)
    return SourceTensor(
        _canonical(name), rows, columns, stored.type_name, data, path, row_order=order
    )


def pair_order(rows: int, head_size: int) -> npt.NDArray[np.intp]:
    """For each row in adjacent-pair order, the row in half-split order it comes from."""
    halves = np.arange(rows, dtype=np.intp).reshape(rows // head_size, 2, head_size // 2)
    return halves.swapaxes(1, 2).reshape(-1)


def _canonical(name: str) -> str:
    """GGUF's name; a name that has none is kept, so that an error can say it."""
    layer = LAYER_NAME.fullmatch(name)
    if layer and layer[2] in LAYER_NAMES:
        return f"blk.{layer[1]}.{LAYER_NAMES[layer[2]]}.weight"
    return WHOLE_NAMES.get(name, name)


def _files(folder: Path, shards: list[Path]) -> tuple[Path, ...]:
    """What the model's hash covers, sorted by name."""
    others = [folder / name for name in OTHER_FILES if (folder / name).is_file()]
    found = [*folder.glob("*.json"), *shards, *others]
    return tuple(sorted(found, key=lambda file: file.name))
