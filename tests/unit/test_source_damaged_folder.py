"""A damaged or foreign folder or checkpoint is one ImageError that says what is wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from support.source_damage import (
    TINY,
    WEIGHTS,
    open_and_read_everything,
    refused,
    survives_mutations,
)
from support.tiny_models import write_hf, write_llama2c

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.opening import open_source


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, "'Qwen2ForCausalLM'"),
        ({"architectures": None, "model_type": "gpt2"}, "the architecture is None"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantized already, by an unnamed way"),
        ({"hidden_size": 33}, "4 heads do not divide a hidden_size of 33"),
        ({"num_attention_heads": 0}, "0 heads do not divide"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"num_hidden_layers": 10**30}, "layers is 1000000000"),
        ({"rms_norm_eps": float("nan")}, "norm_eps is nan"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
        ({"rope_theta": 10**400}, "rope_theta is 1000"),
        ({"head_dim": 7}, "head_size is 7"),
        (
            {"head_dim": 16},
            "blk.0.attn_q.weight is 32 x 32, the configuration calls for 64 x 32",
        ),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_scaling": [1]}, "rope_scaling is [1], not an object"),
        ({"tie_word_embeddings": False}, "output.weight is missing"),
        ({"vocab_size": 287}, "token_embd.weight is 288 x 32"),
    ],
)
def test_hf_setting_that_does_not_fit_is_named(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    refused(write_hf(tmp_path / "hf", TINY, WEIGHTS, settings=settings), message)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 200_000, b'{"a": ' * 99_999]
)
def test_hf_config_that_is_no_object_is_refused(tmp_path: Path, text: bytes) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    (folder / "config.json").write_bytes(text)
    refused(folder, "config.json")


def test_hf_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    (folder / "model.safetensors").unlink()
    refused(folder, "has neither model.safetensors nor")


@pytest.mark.parametrize("place", ["../x.safetensors", "/etc/passwd", "", 7, "a\0b", ".."])
def test_hf_index_that_leads_elsewhere_is_refused(tmp_path: Path, place: object) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS, shards=2)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": place}}))
    refused(folder, str(folder))


def test_hf_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(folder, "model-00002-of-00002.safetensors: there is no such file")


def test_safetensors_cut_anywhere_is_refused(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in [*range(0, 2000, 13), *range(2000, len(whole), 997), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(ImageError):
            open_source(folder)


def test_safetensors_with_flipped_header_bytes_opens_or_is_refused(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    (folder / "whole.safetensors").write_bytes(whole)
    header = 8 + struct.unpack("<Q", whole[:8])[0]

    def opened(damaged: Path) -> None:
        damaged.replace(file)
        open_and_read_everything(folder)

    assert survives_mutations(folder / "whole.safetensors", 0, header, opened, 500) > 200


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F8_E4M3"}, "model.norm.weight has type F8_E4M3"),
        ({"dtype": "I64"}, "model.norm.weight has type I64"),
        ({"dtype": 3}, "the entry of model.norm.weight needs"),
        ({"shape": [-1]}, "the entry of model.norm.weight needs"),
        ({"shape": [31]}, "model.norm.weight is F32 [31], which is 124 bytes"),
        ({"shape": [1 << 62, 1 << 62]}, "model.norm.weight is F32"),
        ({"shape": []}, "model.norm.weight is F32 []"),
        ({"data_offsets": [0, 1 << 60]}, "model.norm.weight lies at bytes"),
        ({"data_offsets": [128, 0]}, "model.norm.weight lies at bytes"),
        ({"data_offsets": [0]}, "the entry of model.norm.weight needs"),
        ({"data_offsets": None}, "the entry of model.norm.weight needs"),
    ],
)
def test_safetensors_entry_that_is_wrong_is_named(
    tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["model.norm.weight"] |= entry
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    refused(folder, message)


@pytest.mark.parametrize("length", [0, 1, 1 << 27, (1 << 64) - 1])
def test_safetensors_header_length_that_is_absurd_is_refused(
    tmp_path: Path, length: int
) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    refused(folder, "model.safetensors")


def test_llama2c_of_a_wrong_size_is_refused(tmp_path: Path) -> None:
    tokenizer = write_llama2c(tmp_path / "m.bin", TINY, WEIGHTS)
    whole = (tmp_path / "m.bin").read_bytes()
    for data in (whole[:-1], whole + b"\0", whole[:28]):
        (tmp_path / "m.bin").write_bytes(data)
        refused(tmp_path / "m.bin", f"the header calls for {len(whole)} bytes", tokenizer)
    for length in range(1, 28):
        (tmp_path / "m.bin").write_bytes(whole[:length])
        refused(tmp_path / "m.bin", "too short", tokenizer)


def test_llama2c_with_flipped_header_bytes_opens_or_is_refused(tmp_path: Path) -> None:
    tokenizer = write_llama2c(tmp_path / "m.bin", TINY, WEIGHTS)

    def opened(path: Path) -> None:
        open_and_read_everything(path, tokenizer)

    assert survives_mutations(tmp_path / "m.bin", 0, 28, opened, 500) > 400


def test_llama2c_newer_version_is_named(tmp_path: Path) -> None:
    tokenizer = write_llama2c(tmp_path / "m.bin", TINY, WEIGHTS)
    (tmp_path / "m.bin").write_bytes(b"24ka" + (tmp_path / "m.bin").read_bytes()[4:])
    refused(tmp_path / "m.bin", "--version 0", tokenizer)
