"""Templates give the text and the ids that transformers gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from unit.chat_cases import CONVERSATIONS, TEMPLATES

from qedge.runtime.errors import ImageError
from qedge.runtime.model import Model
from qedge.toolkit.chat import chat_tokens, tokens


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
