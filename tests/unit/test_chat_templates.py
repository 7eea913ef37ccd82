"""Templates give the text and the ids that transformers gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.chat_cases import CONVERSATIONS, TEMPLATES
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.errors import ImageError
from qedge.runtime.image import CHAT
from qedge.runtime.model import Model
from qedge.toolkit.board import load
from qedge.toolkit.chat import chat_tokens, read_facts, tokens
from qedge.toolkit.make.build import build
from qedge.toolkit.source import special_tokens


@pytest.fixture(scope="module")
def reference(chat_folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    return transformers.AutoTokenizer.from_pretrained(chat_folder)


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_and_ids_are_those_of_transformers(
    name: str, chat_model: Model, reference: Any, rendered_here: None
) -> None:
    compared = 0
    for values in CONVERSATIONS.values():
        more = {"add_generation_prompt": True, **values}
        messages, template = more.pop("messages"), TEMPLATES[name]
        try:
            text = reference.apply_chat_template(
                messages, chat_template=template, tokenize=False, **more
            )
        except Exception:
            with pytest.raises(ImageError):
                chat_tokens(chat_model, messages, template=template, **more)
            continue
        expected = reference(text, add_special_tokens=False)["input_ids"]
        made = tokens.render(
            template, messages, tokens.conversation_of(chat_model).special_tokens, **more
        )
        assert made.text == text
        assert chat_tokens(chat_model, messages, template=template, **more) == expected
        compared += 1
    assert compared >= 3


def test_special_tokens_of_a_folder_are_those_that_transformers_names(
    chat_folder: Path, chat_model: Model, reference: Any
) -> None:
    found = tokens.conversation_of(chat_model)
    assert found.special_tokens == reference.special_tokens_map
    assert not found.chat_bos
    older = chat_folder.with_name("older")
    shutil.copytree(chat_folder, older)
    settings = json.loads((older / "tokenizer_config.json").read_text())
    named = {name: settings.pop(name) for name in list(settings) if name.endswith("_token")}
    named["bos_token"] = {"content": "<|im_end|>", "lstrip": False}
    (older / "tokenizer_config.json").write_text(json.dumps(settings))
    (older / "special_tokens_map.json").write_text(json.dumps(named))
    assert special_tokens.of_folder(older)["bos_token"] == "<|im_end|>"
    assert special_tokens.of_folder(older)["pad_token"] == "<|endoftext|>"


def test_image_of_the_same_model_has_the_same_bytes_and_no_chat_section_without_a_template(
    tmp_path: Path,
) -> None:
    config = TinyConfig(layers=1, dim=32, ffn=32, heads=4, kv_heads=2, context=32)
    for template in (None, "{{ messages }}"):
        model = write_gguf(
            tmp_path / "x.gguf", config, make_weights(1, config), chat_template=template
        )
        images = [
            build(model, load("x86-64"), tmp_path / name, quant="f32").image
            for name in ("a.qimg", "b.qimg")
        ]
        assert images[0].read_bytes() == images[1].read_bytes()
        with Model.open(images[0]) as opened:
            section = opened.image.section(CHAT)
            assert (section is None) == (template is None)
            if section is not None:
                assert read_facts(section).pack() == section


@pytest.mark.parametrize(
    "section",
    [
        *(None, b"", b"{", b"[]", b"null", b"{}", b'{"special_tokens": 3}', b"\xff" * 9),
        b'{"special_tokens": {"a": 3}, "control_tokens": []}',
        b'{"special_tokens": {}, "control_tokens": {"a": "b"}}',
        b"[" * 100_000,
    ],
    ids=lambda section: repr(section)[:20],
)
def test_a_chat_section_that_says_nothing_is_none(section: bytes | None) -> None:
    assert read_facts(section) is None
