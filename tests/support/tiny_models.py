"""Tiny Llamas made from a seed, as GGUF, Hugging Face folder and llama2.c checkpoint.

    config = TinyConfig(layers=1)
    weights = make_weights(7, config)
    write_gguf(folder / "tiny.gguf", config, weights, types={"blk.*": "Q4_0"})

Weights go by GGUF's names and order of rotary pairs, whatever is written, so that the three
files hold one model.  Nothing here uses the code under test.
"""

from __future__ import annotations

import fnmatch
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

Weights = dict[str, np.ndarray]

BPE_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPM_SPECIALS = ("<unk>", "<s>", "</s>")
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class TinyConfig:
    """The smallest shape that shows grouped heads and several blocks a row.

    Q4_0 and Q8_0 need dim and ffn to be multiples of 32; ffn=172, as in stories260K, shows a
    padded row and can be written as F32, F16 or BF16.  vocab_size is at least 288 (a token for
    every byte, three specials, the letters).  head_size 0 means dim / heads.
    """

    layers: int = 2
    dim: int = 64
    ffn: int = 96
    heads: int = 8
    kv_heads: int = 4
    vocab_size: int = 300
    context: int = 128
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    tied: bool = True
    head_size: int = 0

    @property
    def head(self) -> int:
        return self.head_size or self.dim // self.heads


def shapes(config: TinyConfig) -> dict[str, tuple[int, ...]]:
    """numpy shape of every tensor: (rows, columns), or (dim,) of a norm."""
    query, key = config.heads * config.head, config.kv_heads * config.head
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.vocab_size, config.dim),
        "output_norm.weight": (config.dim,),
    }
    if not config.tied:
        found["output.weight"] = (config.vocab_size, config.dim)
    for layer in range(config.layers):
        parts = {
            "attn_norm": (config.dim,),
            "attn_q": (query, config.dim),
            "attn_k": (key, config.dim),
            "attn_v": (key, config.dim),
            "attn_output": (config.dim, query),
            "ffn_norm": (config.dim,),
            "ffn_gate": (config.ffn, config.dim),
            "ffn_up": (config.ffn, config.dim),
            "ffn_down": (config.dim, config.ffn),
        }
        found |= {f"blk.{layer}.{part}.weight": shape for part, shape in parts.items()}
    return found


def make_weights(seed: int, config: TinyConfig) -> Weights:
    """float32 weights: matrices normal with variance 1 / columns, norms around one."""
    random = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in shapes(config).items():
        values = random.standard_normal(shape)
        values = values * shape[1] ** -0.5 if len(shape) == 2 else 1.0 + 0.1 * values
        weights[name] = values.astype(np.float32)
    return weights


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte: printable Latin-1 as itself, the rest from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def bpe_vocabulary(size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """(tokens, merges): the specials, the bytes, pairs of a space or letter and a letter, then
    those pairs with one more letter."""
    tokens = [*BPE_SPECIALS, *byte_letters()]
    pairs = [(left, right) for left in ["Ġ", *LETTERS] for right in LETTERS]
    pairs += [(left + right, third) for left, right in pairs for third in LETTERS]
    merges = pairs[: size - len(tokens)]
    return tokens + [left + right for left, right in merges], merges


def spm_vocabulary(size: int) -> tuple[list[str], list[float], list[int]]:
    """(tokens, scores, GGUF token types): specials, bytes, the letters, then pairs of them."""
    pieces = ["\u2581", *LETTERS]
    pieces += [left + right for left in pieces for right in LETTERS]
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = pieces[: size - len(names) - len(SPM_SPECIALS)]
    types = [2, 3, 3] + [6] * 256 + [1] * len(pieces)
    scores = [0.0] * (3 + 256) + [-float(rank) for rank in range(len(pieces))]
    return [*SPM_SPECIALS, *names, *pieces], scores, types


def write_gguf(
    path: Path,
    config: TinyConfig,
    weights: Mapping[str, np.ndarray],
    types: Mapping[str, str] | None = None,
    *,
    tokenizer: str = "bpe",
    chat_template: str | None = CHATML,
    architecture: str = "llama",
    rope_factors: np.ndarray | None = None,
    raw: Mapping[str, tuple[np.ndarray, str]] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """A GGUF file, version 3.

    types         ggml type by name or pattern, first match ("blk.*": "Q4_0"); else F32
    tokenizer     "bpe" (byte level, `smollm`) or "spm" (scores and byte tokens)
    rope_factors  written as rope_freqs.weight
    raw           tensors given as blocks already: name -> (uint8 (rows, bytes), type)
    extra         more metadata: int as uint32, float as float32, bool, str
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.ffn)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head)
    writer.add_vocab_size(config.vocab_size)
    if config.head_size:
        writer.add_key_length(config.head)
        writer.add_value_length(config.head)
    add = {int: writer.add_uint32, float: writer.add_float32}
    add |= {bool: writer.add_bool, str: writer.add_string}
    for key, value in (extra or {}).items():
        add[type(value)](key, value)
    _add_tokenizer(writer, config, tokenizer)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for name, values in weights.items():
        patterns = (kind for pattern, kind in (types or {}).items() if _matches(name, pattern))
        kind = next(patterns, "F32") if values.ndim == 2 else "F32"
        _add_tensor(writer, name, values, kind)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.astype(np.float32))
    for name, (data, kind) in (raw or {}).items():
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern)


def _add_tokenizer(writer: gguf.GGUFWriter, config: TinyConfig, tokenizer: str) -> None:
    if tokenizer == "spm":
        pieces, scores, types = spm_vocabulary(config.vocab_size)
        writer.add_tokenizer_model("llama")
        writer.add_token_list(pieces)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_unk_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        return
    tokens, merges = bpe_vocabulary(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    number = gguf.GGMLQuantizationType[kind]
    if kind == "F32":
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, number), raw_dtype=number)


HF_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hf_tensors(config: TinyConfig, weights: Mapping[str, np.ndarray]) -> Weights:
    """The same weights under transformers' names, Q and K in half-split rotary order."""
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    found: Weights = {}
    for name, values in weights.items():
        if name in names:
            found[names[name]] = values
            continue
        _, layer, part, _ = name.split(".")
        if part in ("attn_q", "attn_k"):
            pairs = values.reshape(-1, config.head // 2, 2, values.shape[1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        found[f"model.layers.{layer}.{HF_PARTS[part]}.weight"] = np.ascontiguousarray(values)
    return found


def write_hf(
    folder: Path,
    config: TinyConfig,
    weights: Mapping[str, np.ndarray],
    *,
    dtype: str = "F32",
    shards: int = 1,
    settings: Mapping[str, Any] | None = None,
    chat_template: Any = CHATML,
) -> Path:
    """A folder as transformers saves one, with the byte-level tokenizer of write_gguf.

    dtype          F32, F16 or BF16 (rounded to nearest even)
    shards         more than one writes an index beside the shards
    settings       changes to config.json
    chat_template  what tokenizer_config.json holds; None leaves it out
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "rope_scaling": None,
        "tie_word_embeddings": config.tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if config.head_size:
        values["head_dim"] = config.head_size
    _write_json(folder / "config.json", values | dict(settings or {}))
    tokenizer_settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BPE_SPECIALS[1],
        "eos_token": BPE_SPECIALS[2],
        "add_bos_token": False,
    }
    if chat_template is not None:
        tokenizer_settings["chat_template"] = chat_template
    _write_json(folder / "tokenizer_config.json", tokenizer_settings)
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    _write_json(folder / "tokenizer.json", hf_tokenizer(config.vocab_size))
    tensors = list(hf_tensors(config, weights).items())
    if shards == 1:
        write_safetensors(folder / "model.safetensors", dict(tensors), dtype)
        return folder
    places = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(tensors[shard::shards])
        write_safetensors(folder / name, part, dtype)
        places |= dict.fromkeys(part, name)
    _write_json(folder / "model.safetensors.index.json", {"weight_map": places})
    return folder


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], dtype: str) -> None:
    """One file by the safetensors library; BF16, which numpy lacks, by hand."""
    if dtype != "BF16":
        kind = {"F32": np.float32, "F16": np.float16}[dtype]
        save_file({name: values.astype(kind) for name, values in tensors.items()}, path)
        return
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16).tobytes()
        place = [len(data), len(data) + len(blocks)]
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": place}
        data += blocks
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def hf_tokenizer(vocab_size: int) -> dict[str, Any]:
    """tokenizer.json of bpe_vocabulary, with SmolLM's pre-tokenizer."""
    tokens, merges = bpe_vocabulary(vocab_size)
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    byte_level |= {"use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": text, "special": True, **plain}
            for number, text in enumerate(BPE_SPECIALS)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: number for number, text in enumerate(tokens)},
            "merges": [" ".join(pair) for pair in merges],
        },
    }


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1), "utf-8")


LLAMA2C_PARTS = (
    *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"),
    *("ffn_norm", "ffn_gate", "ffn_down", "ffn_up"),
)


def write_llama2c(path: Path, config: TinyConfig, weights: Mapping[str, np.ndarray]) -> Path:
    """A version 0 checkpoint, and tokenizer.bin (SPM) beside it; gives the tokenizer's path.

    llama2.c has no place for head_size, norm_eps and rope_base: use their defaults."""
    vocab_size = config.vocab_size if config.tied else -config.vocab_size
    sizes = (config.dim, config.ffn, config.layers, config.heads, config.kv_heads)
    parts = [weights["token_embd.weight"]]
    parts += [
        weights[f"blk.{layer}.{part}.weight"]
        for part in LLAMA2C_PARTS
        for layer in range(config.layers)
    ]
    parts.append(weights["output_norm.weight"])
    parts.append(np.full(config.context * config.head, np.nan, np.float32))  # never to be read
    if not config.tied:
        parts.append(weights["output.weight"])
    header = struct.pack("<7i", *sizes, vocab_size, config.context)
    path.write_bytes(header + b"".join(part.astype("<f4").tobytes() for part in parts))
    tokenizer = path.with_name("tokenizer.bin")
    pieces, scores, _ = spm_vocabulary(config.vocab_size)
    texts = [piece.replace("\u2581", " ").encode() for piece in pieces]
    records = [
        struct.pack("<fi", score, len(text)) + text for text, score in zip(texts, scores)
    ]
    tokenizer.write_bytes(struct.pack("<I", max(map(len, texts))) + b"".join(records))
    return tokenizer
