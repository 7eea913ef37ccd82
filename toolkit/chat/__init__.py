"""Conversations: renders a model's chat template as transformers does, in a process with
limits, and makes token ids of it in which only the template's control tokens count.

It does not generate: `Model.chat` and `qedge run --chat` do.
"""

from __future__ import annotations

from qedge.toolkit.chat.facts import Conversation, facts_of, read_facts
from qedge.toolkit.chat.render import Rendered, render
from qedge.toolkit.chat.tokens import chat_prompt, chat_tokens

__all__ = [
    "Conversation",
    "Rendered",
    "chat_prompt",
    "chat_tokens",
    "facts_of",
    "read_facts",
    "render",
]
