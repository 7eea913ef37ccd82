"""What people get from a hub and give as a model is read where that can be, else named with
what to do: pointers, adapters, quantized weights, wrapped names, names in any bytes."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.source_damage import TINY, WEIGHTS, open_and_read_everything, refused, same_weights
from support.tiny_models import TinyConfig, hf_tensors, make_weights, write_gguf, write_hf

from qedge.runtime import Model
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build
from qedge.toolkit.source.locate import locate
from qedge.toolkit.source.opening import open_source

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 9\n"
)
REVISION = "0123456789abcdef" * 2 + "01234567"


# ---- what stands for a file ----


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    ],
)
def test_a_git_lfs_pointer_in_a_folder_is_named(tmp_path: Path, name: str) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    (folder / name).write_bytes(POINTER)
    refused(folder, f"{folder / name}: is a Git LFS pointer, not the file itself; run `git lfs")


def test_a_pointer_among_shards_is_named(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS, shards=3)
    (folder / "model-00002-of-00003.safetensors").write_bytes(POINTER)
    refused(folder, "model-00002-of-00003.safetensors: is a Git LFS pointer")
    (folder / "model.safetensors.index.json").write_bytes(POINTER)
    refused(folder, "model.safetensors.index.json: is a Git LFS pointer")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is a web page, not the file itself"),
        (b"\n <HTML lang=en>", "is a web page"),
        (b'{"error":"Repository not found"}', "is a server's answer that it has failed"),
        (b"Entry not found", "there is no such file; check its name"),
        (b"Invalid username or password.", "log in and download it again"),
        (b"Access to model acme/tiny is restricted.", "ask for access"),
        (b"\x1f\x8b\x08", "gzip archive; unpack it"),
    ],
)
def test_what_a_failed_download_leaves_is_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    refused(tmp_path / "m.gguf", message)


# ---- adapters and quantized weights ----


def test_an_adapter_is_to_be_merged(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    lora = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros((8, 32))}
    save_file(lora, tmp_path / "adapter_model.safetensors")
    (tmp_path / "bare").mkdir()
    shutil.copyfile(tmp_path / "adapter_model.safetensors", tmp_path / "bare/adapter_model.bin")
    refused(tmp_path / "bare", "this is an adapter (LoRA): merge it into its base model first")
    refused(tmp_path, "is an adapter (LoRA, by PEFT) and no model; merge it into its base")
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    save_file(hf_tensors(TINY, WEIGHTS) | lora, folder / "model.safetensors")
    refused(folder, "belongs to an adapter (LoRA, by PEFT)")


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ"),
        ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "AWQ"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8"),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized"},
            "compressed-tensors",
        ),
        ({"quant_method": "hqq"}, "HQQ"),
        ({"quant_method": "exl2", "bits": 4.0}, "EXL2"),
        ({"quant_method": "exl3"}, "EXL3"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"group_size": 64, "bits": 4}, "MLX"),
        ({"group_size": 128, "bits": 4, "desc_act": False}, "GPTQ"),
        ({"w_bit": 4, "q_group_size": 128}, "AWQ"),
        ("aqlm", "aqlm"),
    ],
)
@pytest.mark.parametrize("key", ["quantization_config", "quantization"])
def test_a_quantized_folder_is_named(
    tmp_path: Path, key: str, settings: Any, method: str
) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS, settings={key: settings})
    refused(folder, f"quantized already, by {method}; qedge quantizes by itself: give the")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("model.layers.0.mlp.up_proj.qweight", np.int32, "by GPTQ or AWQ"),
        ("model.layers.0.mlp.up_proj.weight.absmax", np.uint8, "by bitsandbytes"),
        (
            "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4",
            np.uint8,
            "by bitsandbytes",
        ),
        ("model.layers.0.mlp.up_proj.SCB", np.float32, "by bitsandbytes"),
        ("model.layers.0.mlp.up_proj.W_q", np.uint8, "by HQQ"),
        ("model.layers.0.mlp.up_proj.q_weight", np.int32, "by EXL2"),
        ("model.layers.0.mlp.up_proj.trellis", np.int16, "by EXL3"),
        ("model.layers.0.mlp.up_proj.weight_packed", np.int32, "by FP8 or INT4"),
        ("model.layers.0.mlp.up_proj.scales", np.float16, "by MLX"),
        ("model.layers.0.mlp.up_proj.weight", np.int8, "type I8: integers are those of"),
        ("model.layers.0.mlp.up_proj.weight", np.int64, "type I64: integers"),
        ("model.layers.0.mlp.up_proj.weight", np.bool_, "type BOOL: integers"),
    ],
)
def test_quantized_weights_are_named_when_the_configuration_is_silent(
    tmp_path: Path, name: str, kind: type, message: str
) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    tensors = hf_tensors(TINY, WEIGHTS) | {name: np.ones((TINY.ffn, TINY.dim), kind)}
    save_file(tensors, folder / "model.safetensors")
    refused(folder, message)


def test_fp8_weights_are_named(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    header = {"lm_head.weight": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    file = struct.pack("<Q", len(text)) + text + bytes(4)
    (folder / "model.safetensors").write_bytes(file)
    refused(folder, "has type F8_E4M3: the weights are quantized already")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin"], "pytorch_model.bin is a Python pickle"),
        (["pytorch_model-00001-of-00002.bin"], "save_pretrained('{folder}', safe_serial"),
        (["consolidated.00.pth"], "is a Python pickle, which can run code"),
        (["quantize_config.json", "gptq_model-4bit.bin"], "by GPTQ"),
        (["quant_config.json"], "by AWQ"),
        (["tf_model.h5"], "TensorFlow's weights"),
        (["flax_model.msgpack"], "Flax's weights"),
        (["weights.npz"], "MLX's or numpy's"),
        (["consolidated.safetensors"], "has only consolidated files, with their makers' own"),
        ([], "download the safetensors files of the model"),
    ],
)
def test_a_folder_without_safetensors_says_what_it_has(
    tmp_path: Path, names: list[str], message: str
) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    (folder / "model.safetensors").unlink()
    for name in names:
        (folder / name).write_bytes(b"x")
    refused(folder, message.format(folder=folder))


# ---- names and types of safetensors ----


def renamed(tmp_path: Path, change: Any, **more: Any) -> Path:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS, **more)
    tensors = {change(name): values for name, values in hf_tensors(TINY, WEIGHTS).items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"model.{name}",
        lambda name: name.removeprefix("model."),
        lambda name: name.replace("model.layers.0.", "model.layers.0._orig_mod."),
        lambda name: name.replace(".self_attn.", ".self_attn._fsdp_wrapped_module."),
        lambda name: f"_forward_module.{name}",
        lambda name: f"language_model.{name}",
        lambda name: name.replace("model.", "model.language_model."),
    ],
)
def test_names_that_programs_wrapped_are_read(tmp_path: Path, change: Any) -> None:
    assert same_weights(open_source(renamed(tmp_path, change)))


def test_an_output_matrix_is_found_under_wrapped_names(tmp_path: Path) -> None:
    config = TinyConfig(layers=1, tied=False)
    weights = make_weights(1, config)
    for number, change in enumerate(
        (
            lambda name: f"_orig_mod.{name}",
            lambda name: f"language_model.{name}",
            lambda name: name.replace("model.", "model.language_model."),
            lambda name: name.removeprefix("model."),
        )
    ):
        folder = write_hf(tmp_path / f"hf{number}", config, weights)
        tensors = {change(name): values for name, values in hf_tensors(config, weights).items()}
        save_file(tensors, folder / "model.safetensors")
        assert same_weights(open_source(folder), weights)


def test_names_that_are_none_of_the_graph_stay_refused(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    tensors = {f"language_model.{n}": v for n, v in hf_tensors(TINY, WEIGHTS).items()}
    save_file(tensors | {"vision_tower.x": np.ones(3)}, folder / "model.safetensors")
    refused(folder, "vision_tower.x is not part of")
    twice = hf_tensors(TINY, WEIGHTS)
    twice |= {f"_orig_mod.{name}": values for name, values in list(twice.items())[:1]}
    save_file(twice, folder / "model.safetensors")
    refused(folder, "is in another shard too, or under another name")


def test_float64_weights_are_read_and_rounded_once(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    exact = {
        n: v.astype(np.float64) * (1 + 1e-12) for n, v in hf_tensors(TINY, WEIGHTS).items()
    }
    save_file(exact, folder / "model.safetensors")
    assert same_weights(open_source(folder))
    build(folder, load("host"), tmp_path / "m.qimg", quant="q8_0")
    exact["model.norm.weight"][3] = 1e300  # float32 holds no such number
    save_file(exact, folder / "model.safetensors")
    with pytest.raises(
        Exception, match=r"output_norm\.weight row 0 holds a weight that is not"
    ):
        open_and_read_everything(folder)


def test_float64_tensors_of_a_gguf_are_read(tmp_path: Path) -> None:
    weights = dict(WEIGHTS)
    name = "blk.0.ffn_up.weight"
    values = weights.pop(name).astype(np.float64)
    raw = {name: (values, "F64")}
    assert same_weights(open_source(write_gguf(tmp_path / "m.gguf", TINY, weights, raw=raw)))


def test_shards_are_read_without_an_index_when_all_are_there(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS, shards=3)
    (folder / "model.safetensors.index.json").unlink()
    assert same_weights(open_source(folder))
    (folder / "model-00003-of-00003.safetensors").unlink()
    refused(folder, "(2 of 3 shards are here); download model-00003-of-00003.safetensors too")


def test_missing_shards_of_an_index_are_counted_and_named(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS, shards=3)
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    index.write_text(json.dumps({"metadata": {"total_size": 1, "note": [1]}, **places}))
    assert same_weights(open_source(folder))
    for number in (1, 3):
        (folder / f"model-0000{number}-of-00003.safetensors").unlink()
    refused(
        folder, "(1 of 3 shards are here); download model-00001-of-00003.safetensors, model-"
    )


def test_one_safetensors_file_of_another_name_is_taken(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    (folder / "model.safetensors").rename(folder / "tiny.safetensors")
    assert same_weights(open_source(folder))


# ---- names and texts in any bytes ----


@pytest.mark.parametrize("kind", ["gguf", "folder", "folder of a gguf"])
def test_a_models_name_may_be_any_bytes(tmp_path: Path, kind: str) -> None:
    name = os.fsdecode(b"mod\xe8le \xff")
    path = tmp_path / name
    if kind == "folder":
        write_hf(path, TINY, WEIGHTS)
    elif kind == "gguf":
        path = write_nameless(path.with_name(name + ".gguf"))
    else:
        path.mkdir()
        write_nameless(path / (name + ".gguf"))
    built = build(path, load("host"), tmp_path / (name + ".qimg"), quant="f32")
    with Model.open(built.image) as model:
        provenance = model.image.section(9).decode("utf-8")
    assert json.loads(provenance)["model"] == "mod\ufffdle \ufffd"


def write_nameless(path: Path) -> Path:
    """A GGUF without general.name: the file gives the name."""
    path.with_name("plain").unlink(missing_ok=True)
    plain = write_gguf(path.with_name("plain"), TINY, WEIGHTS)
    data = plain.read_bytes()
    value = struct.pack("<Q", 12) + b"general.name" + struct.pack("<IQ", 8, 4) + b"tiny"
    emptied = struct.pack("<Q", 12) + b"general.n__e" + struct.pack("<IQ", 8, 4) + b"tiny"
    assert data.count(value) == 1
    plain.unlink()
    path.write_bytes(data.replace(value, emptied))
    return path


def test_texts_of_a_gguf_may_be_any_bytes(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS, extra={"general.notes": "x" * 9})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"x" * 9, b"mod\xe8le \xff\xfe"))
    assert same_weights(open_source(path))
    name = struct.pack("<Q", 4) + b"tiny"
    path.write_bytes(data.replace(name, struct.pack("<Q", 4) + b"t\xe9\xe8y"))
    built = build(path, load("host"), tmp_path / "m.qimg", quant="f32")
    with Model.open(built.image) as model:
        provenance = json.loads(model.image.section(9).decode("utf-8"))
    assert provenance["model"] == "t\ufffd\ufffdy"
    path.write_bytes(data.replace(b"message['role']", b"m\xe8ssage['role']"[:15]))
    refused(path, "tokenizer.chat_template is not text in UTF-8")


@pytest.mark.parametrize("where", ["tokenizer_config.json", "list"])
def test_half_a_surrogate_pair_in_a_chat_template_is_refused(
    tmp_path: Path, where: str
) -> None:
    half = "{{ messages[0].content }} \ud83d"
    template: Any = [{"name": "default", "template": half}] if where == "list" else half
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS, chat_template=None)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    refused(folder, "chat_template holds half of a surrogate pair at letter 26")


def test_locate_gives_a_model_back_as_it_is(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, WEIGHTS)
    file = write_gguf(tmp_path / "m.gguf", TINY, WEIGHTS)
    assert locate(folder) == folder and locate(file) == file
