"""What a model is asked: a prompt as it is, or a conversation through its template; as ids for
an image here, as text for a board."""

from __future__ import annotations

from typing import Any

from qedge.runtime.errors import ImageError, QedgeError, UsageError
from qedge.runtime.image import CHAT, EVERY_PROMPT, TEMPLATE
from qedge.toolkit.chat.facts import Conversation, read_facts
from qedge.toolkit.chat.render import render
from qedge.toolkit.chat.tokens import chat_prompt, chat_tokens, conversation_of


def conversation(text: bytes | str, system: str | None = None) -> list[dict[str, str]]:
    """The messages of one prompt. ImageError when it is not UTF-8."""
    try:
        content = text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError:
        raise ImageError("the prompt is not UTF-8; convert it first") from None
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": content}]


def is_turn(template: str | None, chat: bool, system: str | None, raw: bool) -> bool:
    """Whether a prompt goes through the model's template. UsageError for raw with chat."""
    if raw and (chat or system is not None):
        raise UsageError("--raw takes the prompt as it is: leave out --chat and --system")
    marked = template is not None and template.startswith(EVERY_PROMPT)
    return chat or system is not None or (marked and not raw)


def ids_here(
    model: Any,
    text: bytes | str,
    *,
    chat: bool = False,
    system: str | None = None,
    raw: bool = False,
    special: bool = False,
) -> list[int]:
    """The ids of a prompt for an opened Model.

    chat: through its template; system: the same, with a system message in front; raw: not even
    if the template asks for every prompt; special: control tokens that are written in it count.
    """
    if not is_turn(model.chat_template, chat, system, raw):
        return list(model.prompt_tokens(text, special=special))
    if system and model.chat_template is not None:
        _check_system(model.chat_template, conversation_of(model), text, system)
    return chat_tokens(model, conversation(text, system), special=special)


def text_there(
    device: Any,
    text: bytes | str,
    *,
    chat: bool = False,
    system: str | None = None,
    raw: bool = False,
    special: bool = False,
) -> tuple[bytes, dict[str, bool]]:
    """The prompt for a board, and what its Run has to be told of it (`special`, `bos`).
    The template is that of the image there; options as of ids_here.

    ImageError when it has none, UsageError when a message holds a control token."""
    data = _utf8(text) if isinstance(text, str) else text
    turn = is_turn(None, chat, system, raw)
    try:
        section = None if raw else device.section(TEMPLATE)
    except QedgeError:
        if turn:
            raise
        section = None  # older firmware has no such message, and its images no such templates
    template = None if section is None else section.decode("utf-8", "replace")
    if not turn and not is_turn(template, chat, system, raw):
        return data, {"special": special}
    if template is None:
        raise ImageError(
            f"{device.name}: its image has no chat template; run it without --chat"
        )
    facts = read_facts(device.section(CHAT))
    if system:
        _check_system(template, facts, data, system)
    made = chat_prompt(template, facts, conversation(data, system), special=special)
    # whoever made the template has decided about BOS; an older image says nothing of it
    return _utf8(made), {"special": True, "bos": facts is None}


def _check_system(
    template: str, facts: Conversation | None, text: bytes | str, system: str
) -> None:
    """UsageError when a system message makes no difference to what a template says."""
    if "system" in template:  # it knows of them, and rendering takes 0.1 s each time
        return
    named = facts.special_tokens if facts else {}
    with_it, without = (
        render(template, conversation(text, said), named).text for said in (system, None)
    )
    if with_it == without:
        raise UsageError(
            "--system: this model's template takes no system message; leave it out, or write "
            "it into the prompt"
        )


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ImageError("the prompt is not UTF-8; convert it first") from None
