"""What people give in place of a model that can be read, each by its name and with what to do.

Only refusals: what can be read is elsewhere.  Files that stand for another (Git LFS pointers,
web pages) are refused where any file is opened, adapters where a folder is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from qedge.runtime.errors import ImageError

# First bytes of files that are often given in place of a model.
MAGICS = {
    b"PK\x03\x04": "a PyTorch or zip archive; give the model's safetensors folder or GGUF",
    b"\x80\x02": "a Python pickle; give the model's safetensors folder or GGUF",
    b"tjgg": "a GGML file older than GGUF; convert the model again",
    b"lmgg": "a GGML file older than GGUF; convert the model again",
    b"fmgg": "a GGML file older than GGUF; convert the model again",
    b"\x1f\x8b": "a gzip archive; unpack it and give what is in it",
    b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it and give what is in it",
    b"\xfd7zXZ": "an xz archive; unpack it and give what is in it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it and give what is in it",
    b"\x89HDF\r\n": "an HDF5 file (Keras); give the model's safetensors folder or GGUF",
    b"\x08\x07\x12": "an ONNX file; give the model's safetensors folder or GGUF",
}
# A GGUF cut by a program that knows no GGUF, whose pieces are joined by cat.
PIECE = re.compile(r"(.+\.gguf)[-._]?(?:split|part)[-._]?[a-z0-9]+(?:of[0-9]+)?", re.IGNORECASE)

UNQUANTIZED = (
    "qedge quantizes by itself: give the unquantized model that this was made of, or a GGUF"
)
# quantization_config's quant_method -> how it is called.
METHODS = {
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8 (FBGEMM)",
    "compressed-tensors": "compressed-tensors",
    "hqq": "HQQ",
    "exl2": "EXL2",
    "exl3": "EXL3",
    "mlx": "MLX",
}
# What tells a method from a quantization_config without its name, first match.
SILENT = (
    ({"load_in_4bit", "load_in_8bit"}, "bitsandbytes"),
    ({"desc_act", "damp_percent"}, "gptq"),
    ({"zero_point", "w_bit"}, "awq"),
    ({"head_bits"}, "exl2"),
    ({"group_size"}, "mlx"),
)
# Names that only quantized weights have, by the end of the name.
QUANTIZED_NAMES = (
    (re.compile(r"\.(?:quant_map|absmax|quant_state\..+|SCB|nested_absmax)"), "bitsandbytes"),
    (re.compile(r"\.(?:g_idx)"), "GPTQ"),
    (re.compile(r"\.(?:qweight|qzeros)"), "GPTQ or AWQ"),
    (re.compile(r"\.(?:q_weight|q_scale|q_invperm|q_groups|q_group_map)"), "EXL2"),
    (re.compile(r"\.(?:trellis|suh|svh)"), "EXL3"),
    (re.compile(r"\.(?:W_q)"), "HQQ"),
    (
        re.compile(r"\.(?:weight_packed|weight_scale_inv|weight_scale|input_scale)"),
        "FP8 or INT4",
    ),
    (re.compile(r"\.(?:scales|biases)"), "MLX"),
)
# Files that name a way of quantizing, in folders whose config.json does not.
MARKERS = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}
ADAPTER_NAME = re.compile(r"\.(?:lora_[A-Z]|lora_embedding_[A-Z]|lora_magnitude_vector)\b")
TO_SAFETENSORS = (
    'python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('FOLDER').save_pretrained('FOLDER', safe_serialization=True)\""
)


def refuse_magic(path: Path, start: bytes) -> None:
    """ImageError for a file that begins as another kind of file does."""
    for magic, what in MAGICS.items():
        if start.startswith(magic):
            raise ImageError(f"{path}: is {what}")
    if piece := PIECE.fullmatch(path.name):
        raise ImageError(
            f"{path}: is a piece of a GGUF that was cut; join all pieces in their order first "
            f"(cat PIECES > {piece[1]}) and give that file"
        )


def refuse_quantized(settings: dict[str, Any], path: Path) -> None:
    """ImageError when a config.json says that the weights are quantized."""
    for key in ("quantization_config", "quantization"):
        found = settings.get(key)
        if found is None or found == {}:
            continue
        method = found.get("quant_method") if isinstance(found, dict) else found
        if isinstance(found, dict) and _is_off(found):
            continue
        if method is None and isinstance(found, dict):
            method = next((one for keys, one in SILENT if keys & found.keys()), None)
        name = METHODS.get(
            str(method).lower(), f"{method!s:.40}" if method else "an unnamed way"
        )
        raise ImageError(f"{path}: the weights are quantized already, by {name}; {UNQUANTIZED}")


def _is_off(found: dict[str, Any]) -> bool:
    """bitsandbytes with nothing switched on, as transformers writes it at times."""
    switches = [found.get(key) for key in ("load_in_4bit", "load_in_8bit")]
    return "bitsandbytes" in str(found.get("quant_method")) and switches == [False, False]


def refuse_names(names: Iterable[str], path: Path) -> None:
    """ImageError when tensors' names are those of quantized weights or of an adapter."""
    for name in names:
        if ADAPTER_NAME.search(name):
            raise ImageError(
                f"{path}: {name:.80} belongs to an adapter (LoRA, by PEFT) and no model; merge "
                "it into its base model first (merge_and_unload()) and give that folder"
            )
        for pattern, method in QUANTIZED_NAMES:
            if (found := pattern.search(name)) and found.end() == len(name):
                raise ImageError(
                    f"{path}: {name:.80} says that the weights are quantized already, by "
                    f"{method}; {UNQUANTIZED}"
                )


def refuse_type(name: str, type_name: str, path: Path) -> NoReturn:
    """ImageError for a tensor of a type that no weight has here."""
    integers = type_name.startswith(("I", "U", "BOOL"))
    eight = type_name.startswith("F8") or type_name.startswith("F4")
    kind = "integers are those of quantized weights" if integers else "is not a type of weights"
    kind = "the weights are quantized already" if eight else kind
    raise ImageError(
        f"{path}: {name:.80} has type {type_name:.20}: {kind}; F64, F32, F16 and BF16 are "
        f"supported. {UNQUANTIZED}"
    )


def refuse_weights(folder: Path, names: Iterable[str]) -> NoReturn:
    """ImageError for a folder with config.json and no safetensors that could be taken."""
    found = list(names)
    for marker, method in MARKERS.items():
        if marker in found:
            raise ImageError(
                f"{folder}: {marker} says that the weights are quantized already, by {method}; "
                f"{UNQUANTIZED}"
            )
    pickles = [name for name in found if re.fullmatch(r"pytorch_model.*\.bin|.*\.pth?", name)]
    if pickles:
        convert = TO_SAFETENSORS.replace("FOLDER", str(folder))
        raise ImageError(
            f"{folder}: {pickles[0]} is a Python pickle, which can run code and is not read; "
            f"make safetensors of it, where it is trusted: {convert}"
        )
    if any(name.startswith("consolidated") for name in found):
        raise ImageError(
            f"{folder}: has only consolidated files, with their makers' own names of tensors; "
            "download the model's other safetensors files (model*.safetensors)"
        )
    others = (
        (
            ".h5",
            "these are TensorFlow's weights: take the model's safetensors, or a GGUF of it",
        ),
        (".msgpack", "these are Flax's weights: take the model's safetensors, or a GGUF of it"),
        (".onnx", "these are ONNX files: take the model's safetensors, or a GGUF of it"),
        (".npz", "these are MLX's or numpy's weights: take the model's safetensors, or a GGUF"),
    )
    for end, what in others:
        if files := [name for name in found if name.endswith(end)]:
            raise ImageError(f"{folder}: has no safetensors ({files[0]} is there); {what}")
    raise ImageError(
        f"{folder}: has neither model.safetensors nor its index; download the safetensors "
        "files of the model"
    )
