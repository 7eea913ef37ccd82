"""Every key of a GGUF that is read, with a value of every type, builds or is refused by a
sentence that names the file. The same for every setting of a config.json, and for the entries
of a safetensors header."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest
from support.source_damage import TINY, WEIGHTS, open_and_read_everything
from support.tiny_models import bpe_vocabulary, spm_vocabulary, write_hf

from qedge.runtime.errors import BudgetError, ImageError, UsageError
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build
from qedge.toolkit.make.describe import describe
from qedge.toolkit.source import gguf_config
from qedge.toolkit.source.opening import open_source

Type = gguf.GGUFValueType
VALUES: dict[str, tuple[Type, Any]] = {
    "uint8 0": (Type.UINT8, 0),
    "uint16 1": (Type.UINT16, 1),
    "uint32 max": (Type.UINT32, 2**32 - 1),
    "uint64 max": (Type.UINT64, 2**64 - 1),
    "int8 -1": (Type.INT8, -1),
    "int32 min": (Type.INT32, -(2**31)),
    "int64 -1": (Type.INT64, -1),
    "float32 1.5": (Type.FLOAT32, 1.5),
    "float32 nan": (Type.FLOAT32, float("nan")),
    "float32 inf": (Type.FLOAT32, float("inf")),
    "float64 -inf": (Type.FLOAT64, float("-inf")),
    "float64 1e300": (Type.FLOAT64, 1e300),
    "false": (Type.BOOL, False),
    "true": (Type.BOOL, True),
    "empty text": (Type.STRING, ""),
    "text": (Type.STRING, "x\n\x1b[2J"),
}
ARRAYS: dict[str, tuple[Type, list[Any]]] = {
    "no uint32": (Type.UINT32, []),
    "uint32s": (Type.UINT32, [7, 8]),
    "int8s": (Type.INT8, [-1]),
    "nans": (Type.FLOAT32, [float("nan"), float("inf")]),
    "flags": (Type.BOOL, [True, False]),
    "no texts": (Type.STRING, []),
    "texts": (Type.STRING, ["a", "b"]),
}
KEYS = [
    *("general.architecture", "general.name", "general.alignment", "general.type"),
    *("split.no", "split.count", "split.tensors.count", "tokenizer.chat_template"),
    *("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens"),
    *("tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.ggml.scores"),
    *("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"),
    *("tokenizer.ggml.unknown_token_id", "tokenizer.ggml.eom_token_id"),
    *("tokenizer.ggml.eot_token_id", "tokenizer.ggml.add_bos_token"),
    *("tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix"),
    *(f"llama.{key}" for key in gguf_config.UNSUPPORTED_KEYS),
    *("llama.block_count", "llama.context_length", "llama.embedding_length"),
    *("llama.feed_forward_length", "llama.attention.head_count", "llama.vocab_size"),
    *("llama.attention.head_count_kv", "llama.attention.layer_norm_rms_epsilon"),
    *("llama.attention.key_length", "llama.attention.value_length", "llama.attention.scale"),
    *("llama.attention.sliding_window", "llama.rope.dimension_count", "llama.rope.freq_base"),
    *("llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.scale_linear"),
]


# Keys of one kind of tokenizer, or of split files, which are not looked at in others.
UNREAD = {("tokenizer.ggml.scores", "bpe"), ("tokenizer.ggml.add_space_prefix", "bpe")}
UNREAD |= {("tokenizer.ggml.merges", "spm"), ("tokenizer.ggml.pre", "spm")}
UNREAD |= {("split.tensors.count", "bpe"), ("split.tensors.count", "spm")}


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind: Type, value: Any) -> bytes:
    forms = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}
    forms |= {10: "Q", 11: "q", 12: "d"}
    return text(value) if kind == Type.STRING else struct.pack("<" + forms[int(kind)], value)


def encoded(kind: Type, value: Any) -> bytes:
    """A value as GGUF stores it, its type first; a list is an array of that type."""
    if not isinstance(value, list):
        return struct.pack("<I", int(kind)) + scalar(kind, value)
    items = b"".join(scalar(kind, item) for item in value)
    return struct.pack("<IIQ", 9, int(kind), len(value)) + items


def base_pairs(tokenizer: str) -> dict[str, bytes]:
    """The metadata of a tiny model, each value encoded."""
    shape = {"block_count": TINY.layers, "context_length": TINY.context}
    shape |= {"embedding_length": TINY.dim, "feed_forward_length": TINY.ffn}
    shape |= {"attention.head_count": TINY.heads, "attention.head_count_kv": TINY.kv_heads}
    pairs = {"general.architecture": encoded(Type.STRING, "llama")}
    pairs |= {f"llama.{key}": encoded(Type.UINT32, size) for key, size in shape.items()}
    pairs["llama.attention.layer_norm_rms_epsilon"] = encoded(Type.FLOAT32, 1e-5)
    if tokenizer == "spm":
        pieces, scores, types = spm_vocabulary(TINY.vocab_size)
        pairs["tokenizer.ggml.model"] = encoded(Type.STRING, "llama")
        pairs["tokenizer.ggml.tokens"] = encoded(Type.STRING, pieces)
        pairs["tokenizer.ggml.scores"] = encoded(Type.FLOAT32, scores)
        pairs["tokenizer.ggml.token_type"] = encoded(Type.INT32, types)
        return pairs
    tokens, merges = bpe_vocabulary(TINY.vocab_size)
    pairs["tokenizer.ggml.model"] = encoded(Type.STRING, "gpt2")
    pairs["tokenizer.ggml.pre"] = encoded(Type.STRING, "smollm")
    pairs["tokenizer.ggml.tokens"] = encoded(Type.STRING, tokens)
    pairs["tokenizer.ggml.token_type"] = encoded(Type.INT32, [3] * 3 + [1] * (len(tokens) - 3))
    pairs["tokenizer.ggml.merges"] = encoded(Type.STRING, [" ".join(pair) for pair in merges])
    return pairs


def write(path: Path, pairs: dict[str, bytes]) -> Path:
    infos, data = b"", b""
    for name, values in WEIGHTS.items():
        shape = values.shape[::-1]
        infos += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos += struct.pack("<IQ", 0, len(data))
        data += values.tobytes() + bytes(-values.nbytes % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(WEIGHTS), len(pairs))
    front = head + b"".join(text(key) + value for key, value in pairs.items()) + infos
    path.write_bytes(front + bytes(-len(front) % 32) + data)
    return path


def builds_or_is_refused(path: Path, *, whole: bool = True) -> bool:
    """Whether it builds, or (without `whole`) whether it opens; any other exception than a
    refusal that names it fails the test."""
    output = path.with_name("m.qimg")
    try:
        if not whole:
            open_source(path)
            return True
        build(path, load("x86-64"), output, quant="f32", context="auto")
    except (ImageError, BudgetError, UsageError) as error:
        assert str(path) in str(error) or path.stem in str(error), error
        assert not output.exists()
        return False
    output.unlink()
    return True


@pytest.mark.parametrize("tokenizer", ["bpe", "spm"])
@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_any_type_builds_or_is_refused(
    key: str, tokenizer: str, tmp_path: Path
) -> None:
    pairs = base_pairs(tokenizer)
    path = write(tmp_path / "whole.gguf", pairs)
    assert builds_or_is_refused(path)
    read = 0
    for kind, value in (*VALUES.values(), *ARRAYS.values()):
        damaged = write(tmp_path / "damaged.gguf", {**pairs, key: encoded(kind, value)})
        opens = builds_or_is_refused(damaged, whole=False)
        # an image is made of a few of those that open, since it takes its time
        read += opens and (read > 2 or builds_or_is_refused(damaged))
        try:
            json.dumps(describe(damaged))
        except ImageError as error:
            assert str(damaged) in str(error)
    assert (read == len(VALUES) + len(ARRAYS)) == ((key, tokenizer) in UNREAD)


def test_a_key_that_is_not_read_may_hold_anything(tmp_path: Path) -> None:
    pairs = base_pairs("bpe")
    for number, (kind, value) in enumerate((*VALUES.values(), *ARRAYS.values())):
        pairs[f"general.quantized_by.{number}"] = encoded(kind, value)
    assert builds_or_is_refused(write(tmp_path / "m.gguf", pairs))


SETTINGS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 0.5, 1e300),
    *(float("nan"), float("inf"), float("-inf"), "", "x", "\ud83d", [], [1], ["x"], [None]),
    *({}, {"x": 1}, {"factor": "2"}, {"rope_type": "linear", "factor": [2]}, [[1]] * 3),
]
FOLDER_KEYS = [
    *("architectures", "model_type", "hidden_act", "hidden_size", "intermediate_size"),
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"),
    *("max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "head_dim"),
    *("rope_parameters", "tie_word_embeddings", "sliding_window", "use_sliding_window"),
    *("layer_types", "partial_rotary_factor", "quantization_config", "quantization"),
    *("attention_bias", "num_local_experts", "no_rope_layers", "bos_token_id", "eos_token_id"),
]


@pytest.mark.parametrize("key", FOLDER_KEYS)
def test_a_setting_of_any_type_builds_or_is_refused(key: str, tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    for value in SETTINGS:
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        builds_or_is_refused(folder, whole=False)


ENTRIES: list[Any] = [
    *SETTINGS,
    {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]},
    {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
    {"dtype": "F32", "shape": [1], "data_offsets": [0, True]},
    {"dtype": "F32", "shape": [2**63, 2], "data_offsets": [0, 0]},
    {"dtype": "F32", "shape": [0, 32], "data_offsets": [0, 0]},
    {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
    {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
    {"dtype": "F32\n\x1b[2J" * 99, "shape": [1], "data_offsets": [0, 4]},
    {"dtype": "", "shape": [1], "data_offsets": [0, 4]},
    {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]},
    {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": {"0": 1}, "data_offsets": "04"},
]


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "lm_head.weight", "__metadata__", "", "\n"]
)
def test_a_safetensors_entry_of_any_kind_is_refused_or_read(tmp_path: Path, name: str) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    for entry in ENTRIES:
        changed = json.dumps({**header, name: entry}).encode()
        file.write_bytes(struct.pack("<Q", len(changed)) + changed + whole[8 + length :])
        try:
            open_and_read_everything(folder)
        except ImageError as error:
            assert str(folder) in str(error)
