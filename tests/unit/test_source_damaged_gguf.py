"""A damaged or foreign GGUF is one ImageError that says what is wrong, and nothing else."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from support.source_damage import (
    TINY,
    WEIGHTS,
    open_and_read_everything,
    refused,
    survives_mutations,
)
from support.tiny_models import TinyConfig, write_gguf

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.gguf_file import read_metadata
from qedge.toolkit.source.opening import open_source

MUTATIONS = 2500


def header_bytes(path: Path) -> int:
    """Bytes before the tensors' data."""
    return int(gguf.GGUFReader(path).data_offset)


def test_gguf_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS, {"*": "Q8_0"})
    whole = path.read_bytes()
    header = header_bytes(path)
    cut = tmp_path / "cut.gguf"
    last = gguf.GGUFReader(path).tensors[-1]
    end = int(last.data_offset + last.n_bytes)  # what follows is padding
    for length in [
        *range(0, header, 7),
        *range(header - 40, header + 40),
        *range(end - 40, end),
    ]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ImageError):
            open_and_read_everything(cut)


@pytest.mark.parametrize("tokenizer", ["bpe", "spm"])
def test_gguf_with_flipped_header_bytes_opens_or_is_refused(
    tmp_path: Path, tokenizer: str
) -> None:
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS, tokenizer=tokenizer)
    stop = header_bytes(path)
    assert survives_mutations(path, 0, stop, open_and_read_everything, MUTATIONS // 2) > 100


def test_gguf_with_flipped_config_and_table_bytes_opens_or_is_refused(tmp_path: Path) -> None:
    """The vocabulary is most of a header: here only the bytes around it are hit."""
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS)
    data = path.read_bytes()
    vocabulary = data.index(b"tokenizer.ggml.model")
    table = data.index(b"token_embd.weight")
    assert survives_mutations(path, 0, vocabulary, open_and_read_everything, 800) > 300
    assert (
        survives_mutations(path, table, header_bytes(path), open_and_read_everything, 800) > 300
    )


def test_gguf_with_flipped_weight_bytes_opens_or_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS, {"*": "Q4_0"})
    start, stop = header_bytes(path), path.stat().st_size
    survives_mutations(path, start, stop, open_and_read_everything, 300)


def edited(path: Path, key: bytes, offset: int, value: bytes) -> Path:
    """The file with `value` written `offset` bytes after the end of a key or name."""
    data = bytearray(path.read_bytes())
    at = data.index(key) + len(key) + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("count", [1 << 20, 1 << 32, (1 << 63) + 5, (1 << 64) - 1])
@pytest.mark.parametrize("at", [8, 16])
def test_gguf_absurd_counts_are_refused_at_once(tmp_path: Path, at: int, count: int) -> None:
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS)
    data = bytearray(path.read_bytes())
    data[at : at + 8] = struct.pack("<Q", count)
    path.write_bytes(data)
    refused(path, "cannot fit in the")


@pytest.mark.parametrize("length", [1 << 30, (1 << 64) - 1])
def test_gguf_absurd_lengths_are_refused_at_once(tmp_path: Path, length: int) -> None:
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS)
    number = struct.pack("<Q", length)
    refused(edited(path, b"tokenizer.ggml.merges", 8, number), "cannot fit in the")
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS)
    refused(edited(path, b"tokenizer.ggml.token_type", 8, number), "cut short or damaged")
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS)
    refused(
        edited(path, b"tokenizer.ggml.tokens", 16, number), "string 0 of tokenizer.ggml.tokens"
    )


def test_gguf_tensor_table_faults_are_named(tmp_path: Path) -> None:
    name = b"blk.0.ffn_up.weight"
    faults = [
        (0, struct.pack("<I", 9), "blk.0.ffn_up.weight has 9 dimensions"),
        (4, struct.pack("<Q", 1 << 60), "blk.0.ffn_up.weight lies at bytes"),
        (4, struct.pack("<Q", 0), "blk.0.ffn_up.weight has shape"),
        (
            4,
            struct.pack("<Q", 16),
            "blk.0.ffn_up.weight is 32 x 16, the configuration calls for",
        ),
        (20, struct.pack("<I", 999), "blk.0.ffn_up.weight has tensor type 999"),
        (20, struct.pack("<I", 26), "blk.0.ffn_up.weight has tensor type I32"),
        (20, struct.pack("<I", 12), "blk.0.ffn_up.weight has rows of 32 weights, Q4_K needs"),
        (24, struct.pack("<Q", 1 << 40), "blk.0.ffn_up.weight lies at bytes"),
        (24, struct.pack("<Q", (1 << 64) - 32), "blk.0.ffn_up.weight lies at bytes"),
    ]
    for offset, value, message in faults:
        path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS)
        refused(edited(path, name, offset, value), message)


def test_gguf_missing_tensor_is_named(tmp_path: Path) -> None:
    weights = {name: values for name, values in WEIGHTS.items() if "ffn_gate" not in name}
    refused(write_gguf(tmp_path / "m.gguf", TINY, weights), "blk.0.ffn_gate.weight is missing")


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.0.attn_q_norm.weight", "blk.7.x"])
def test_gguf_extra_tensor_is_named(tmp_path: Path, name: str) -> None:
    weights = {**WEIGHTS, name: np.ones(32, np.float32)}
    refused(write_gguf(tmp_path / "m.gguf", TINY, weights), f"{name} is not part of a 1-layer")


def test_gguf_other_architecture_is_named(tmp_path: Path) -> None:
    refused(write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS, architecture="qwen2"), "'qwen2'")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "5 heads do not divide a dim of 32"),
        ({"heads": 0}, "0 heads do not divide"),
        ({"kv_heads": 3}, "4 heads cannot share 3 key/value heads"),
        ({"kv_heads": 0}, "kv_heads is 0"),
        ({"heads": 32, "kv_heads": 32}, "head_size is 1"),
        ({"layers": 1 << 31}, "layers is 2147483648"),
        ({"layers": 2}, "tensor blk.1.attn_norm.weight is missing"),
        ({"context": 0}, "context is 0"),
        ({"norm_eps": float("nan")}, "norm_eps is nan"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0"),
        ({"rope_base": float("inf")}, "rope_base is inf"),
        ({"ffn": 64}, "blk.0.ffn_gate.weight is 32 x 32, the configuration calls for 64 x 32"),
        ({"vocab_size": 289}, "counts 289 tokens, token_embd.weight has 288 rows"),
    ],
)
def test_gguf_numbers_that_do_not_fit_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    values = {field: getattr(TINY, field) for field in TINY.__slots__}
    config = BareConfig(**(values | changes))
    refused(write_gguf(tmp_path / "m.gguf", config, WEIGHTS), message)


class BareConfig(TinyConfig):
    """Shapes that are wrong on purpose: a head is 8 whatever the rest says."""

    @property
    def head(self) -> int:
        return self.dim // self.heads if self.heads else 8


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"llama.expert_count": 8}, "llama.expert_count is 8"),
        ({"llama.attention.scale": 0.5}, "llama.attention.scale is 0.5; only that of a head"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, "'yarn'"),
        ({"llama.rope.scaling.factor": -1.0}, "rope scaling factor is -1.0"),
        ({"llama.attention.value_length": 16}, "value_length is 16, a head is 8"),
        ({"general.alignment": 24}, "general.alignment is 24"),
        ({"general.alignment": "x"}, "general.alignment is 'x'"),
    ],
)
def test_gguf_settings_of_another_graph_are_named(
    tmp_path: Path, extra: dict[str, Any], message: str
) -> None:
    refused(write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS, extra=extra), message)


@pytest.mark.parametrize("factors", [[1.0], [1.0, 0.0, 1.0, 1.0], [1.0, np.nan, 1.0, 1.0]])
def test_gguf_wrong_rope_factors_are_refused(tmp_path: Path, factors: list[float]) -> None:
    values = np.array(factors, np.float32)
    refused(write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS, rope_factors=values), "rope_freqs")


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0", "Q4_1"])
def test_weight_that_is_not_finite_is_refused_with_its_row(tmp_path: Path, kind: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS, {"*": kind})
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.attn_v.weight")
    data = bytearray(path.read_bytes())
    row = tensor.n_bytes // 16
    item = 4 if kind == "F32" else 2
    at = tensor.data_offset + 5 * row
    data[at : at + item] = b"\xff\xff\xff\x7f"[:item] if kind == "F32" else b"\x00\x7c"
    path.write_bytes(data)
    model = open_source(path)
    damaged = model.tensors["blk.0.attn_v.weight"]
    damaged.read(0, 5)
    for read in (damaged.read, damaged.raw):
        if kind == "Q4_1" and read == damaged.raw:
            continue
        with pytest.raises(ImageError, match=r"blk\.0\.attn_v\.weight row 5 holds a weight"):
            read(2, 9)


@pytest.mark.parametrize("version", [1, 4, 0x03000000])
def test_gguf_other_version_is_refused(tmp_path: Path, version: int) -> None:
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS)
    data = path.read_bytes()
    path.write_bytes(data[:4] + struct.pack("<I", version) + data[8:])
    refused(path, f"GGUF version {version}")


def test_gguf_key_given_twice_is_refused(tmp_path: Path) -> None:
    pair = struct.pack("<Q", 1) + b"k" + struct.pack("<IB", 0, 1)
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + pair + pair)
    with pytest.raises(ImageError, match="k is given twice"):
        read_metadata(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.gguf", b"", "empty"),
        ("m.gguf", b"GG", "begins with"),
        ("m.bin", b"PK\x03\x04", "PyTorch or zip"),
        ("m.gguf", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("m.safetensors", b"\x00" * 64, "one file of a folder"),
        ("model.safetensors.index.json", b"{}", "one file of a folder; give the folder"),
        ("m.txt", b"hello there", "a model is a GGUF file"),
    ],
)
def test_file_of_another_kind_is_told_apart(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, message)


def test_missing_file_and_empty_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.gguf", "there is no such file")
    refused(tmp_path, "needs a config.json")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "config.json").write_text("{}")
    refused(tmp_path, f"did you mean {tmp_path / 'inner'}?")
