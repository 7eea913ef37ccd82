"""Fixtures of the unit tests: for conversations a tiny model of transformers' folder format
with special tokens, and templates that are rendered without another process; for the command
line models that take their time or their room; a model whose formats are compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf, write_hf

from qedge.runtime.errors import ImageError
from qedge.runtime.model import Model
from qedge.toolkit.board import load
from qedge.toolkit.chat import Rendered, renderer, tokens
from qedge.toolkit.make.build import build

if TYPE_CHECKING:
    from qedge.toolkit.quality.compare import Comparison

MORE_TOKENS = {
    "pad_token": "<|endoftext|>",
    "unk_token": {"__type": "AddedToken", "content": "<|endoftext|>", "special": True},
    "sep_token": None,
    "image_token": "<|im_start|>",
    "extra_special_tokens": {"audio_token": "<|im_end|>"},
}


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TinyConfig(context=64)
    place = write_hf(tmp_path_factory.mktemp("chat") / "hf", config, make_weights(1, config))
    settings = place / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | MORE_TOKENS))
    return place


@pytest.fixture(scope="session")
def chat_model(chat_folder: Path) -> Iterator[Model]:
    built = build(chat_folder, load("x86-64"), chat_folder.with_name("chat.qimg"), quant="f32")
    with Model.open(built.image) as opened:
        yield opened


@pytest.fixture
def rendered_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates are rendered in this process: thousands of others would take minutes."""

    def here(template: str, messages: Any, special_tokens: Any = None, **more: Any) -> Rendered:
        request = {
            "template": template,
            "messages": json.loads(json.dumps(messages)),
            "special_tokens": dict(special_tokens or {}),
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
            "continue_final_message": False,
            "variables": {},
        }
        try:
            text = renderer.render(request | more)
        except renderer.Refused as error:
            raise ImageError(str(error)) from None
        return Rendered(text.plain(), tuple(text.runs()))

    monkeypatch.setattr(tokens, "render", here)


@pytest.fixture(scope="session")
def long_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes its time: it ends only where its context does."""
    folder = tmp_path_factory.mktemp("long")
    config = TinyConfig(layers=8, dim=256, ffn=512, context=16384)
    model = write_gguf(folder / "long.gguf", config, make_weights(1, config))
    return build(model, load("host"), folder / "long.qimg", quant="q8_0").image


@pytest.fixture(scope="session")
def big_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of more pages than the system reads ahead of the third tensor; its image takes
    more than two megabytes."""
    config = TinyConfig(layers=2, dim=256, ffn=512, vocab_size=600)
    path = tmp_path_factory.mktemp("big") / "big.gguf"
    return write_gguf(path, config, make_weights(1, config))


@pytest.fixture(scope="session")
def compared_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.compared import CONFIG

    path = tmp_path_factory.mktemp("compare") / "tiny.gguf"
    return write_gguf(path, CONFIG, make_weights(1, CONFIG))


@pytest.fixture(scope="session")
def compared(compared_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    from support.compared import PI5, QUANTS, TEXT

    from qedge.toolkit.quality.compare import compare

    cache = tmp_path_factory.mktemp("cache")
    return compare(compared_model, PI5, quant=QUANTS, text=TEXT, cache=cache)
