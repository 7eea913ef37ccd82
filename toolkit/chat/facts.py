"""What an image says of conversations beside its template: the special tokens by name, and the
control tokens' texts. It renders nothing and makes no ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from qedge.toolkit.source.vocabulary.value import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary


@dataclass(frozen=True, slots=True)
class Conversation:
    """What an image says of conversations: its chat section (runtime/engine/SPEC.md 3.9).

    special_tokens: texts by the names that templates use ("bos_token", "pad_token", …).
    control_tokens: texts that are a token of the model's own wherever the template writes them.
    chat_bos: a conversation begins with BOS also if its template does not write it: llama.cpp's
        rule for GGUF files. In transformers the template alone decides.
    """

    special_tokens: Mapping[str, str]
    control_tokens: tuple[str, ...]
    chat_bos: bool = False

    def pack(self) -> bytes:
        """The section's bytes."""
        found = {
            "chat_bos": self.chat_bos,
            "control_tokens": list(self.control_tokens),
            "special_tokens": dict(sorted(self.special_tokens.items())),
        }
        text = json.dumps(found, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def read_facts(section: bytes | None) -> Conversation | None:
    """The chat section of an image; None when it has none, or one that says nothing."""
    try:
        found = json.loads(section or b"null")
        named, control = found["special_tokens"], found["control_tokens"]
        texts = [*named.values(), *control]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if not all(isinstance(text, str) for text in texts) or not isinstance(control, list):
        return None
    marks = tuple(text for text in control if text)
    return Conversation(named, marks, found.get("chat_bos") is True)


def facts_of(
    vocabulary: Vocabulary, special_tokens: Mapping[str, str], template: str, *, folder: bool
) -> Conversation:
    """The chat section for a model, from a folder or a GGUF file. User-defined tokens that the
    template writes out mark turns as control tokens do, whatever their type says (white space
    excepted)."""
    named = dict(special_tokens)
    for name, token in (("bos_token", vocabulary.bos), ("eos_token", vocabulary.eos)):
        if name not in named and token is not None:
            named[name] = vocabulary.tokens[token].decode("utf-8", "replace")
    control = []
    for word, kind in zip(vocabulary.tokens, vocabulary.types):
        if kind in (CONTROL, UNKNOWN, USER_DEFINED) and word:
            text = word.decode("utf-8", "replace")
            turn = text in template and not text.isspace()
            if kind != USER_DEFINED or turn:
                control.append(text)
    return Conversation(
        {name: text for name, text in named.items() if text},
        tuple(control),
        chat_bos=vocabulary.add_bos and not folder,
    )
