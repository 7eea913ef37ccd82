"""What a run is asked: prompts and conversations, for an image here and for a board."""

from __future__ import annotations

import os
import sys
from typing import Any

from qedge.runtime import ImageError, UsageError

# A template that begins so wants to be given every prompt, not only those of --chat.
EVERY_PROMPT = "{#- every prompt is a turn -#}"
_PLAN, _TEMPLATE, _CHAT = 2, 4, 10  # sections of an image (runtime/engine/SPEC.md)


def given(prompt: str) -> bytes:
    """The bytes of a PROMPT; - is all of standard input."""
    return sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt)


def messages(text: bytes, system: str | None) -> list[dict[str, str]]:
    """The conversation of one prompt."""
    try:
        user = {"role": "user", "content": text.decode()}
    except UnicodeDecodeError:
        raise ImageError("the prompt is not UTF-8; convert it first") from None
    return [*([] if system is None else [{"role": "system", "content": system}]), user]


def planned_arena(device: Any) -> int | None:
    """The arena that the active image's plan says, of the board's; None when it has none."""
    plan = device.section(_PLAN)
    return None if plan is None or len(plan) < 32 else int.from_bytes(plan[24:32], "little")


def is_turn(template: str | None, chat: bool, system: str | None, raw: bool) -> bool:
    """Whether a prompt goes through the model's template. UsageError for --raw with --chat."""
    if raw and (chat or system is not None):
        raise UsageError("--raw takes the prompt as it is: leave out --chat and --system")
    marked = template is not None and template.startswith(EVERY_PROMPT)
    return chat or system is not None or (marked and not raw)


def tokens_here(
    model: Any, text: bytes, *, chat: bool, system: str | None, raw: bool, special: bool
) -> list[int]:
    """The ids of a prompt for an image here."""
    if not is_turn(model.chat_template, chat, system, raw):
        return list(model.prompt_tokens(text, special=special))
    from qedge.toolkit.chat import chat_tokens

    return chat_tokens(model, messages(text, system), special=special)


def text_there(
    device: Any, text: bytes, *, chat: bool, system: str | None, raw: bool, special: bool
) -> tuple[bytes, bool]:
    """The prompt for a board, and whether its control tokens count. The template is that of the
    image there."""
    section = None if raw and not chat else device.section(_TEMPLATE)
    template = None if section is None else section.decode("utf-8", "replace")
    if not is_turn(template, chat, system, raw):
        return text, special
    if template is None:
        raise ImageError(
            f"{device.name}: its image has no chat template; run it without --chat"
        )
    from qedge.toolkit.chat import chat_prompt, read_facts

    facts = read_facts(device.section(_CHAT))
    made = chat_prompt(template, facts, messages(text, system), special=special)
    return made.encode(), True
