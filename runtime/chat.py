"""Model.chat: the answer in a conversation. Rendering templates is the toolkit's business,
which is asked for that when it is installed."""

from __future__ import annotations

from qedge.runtime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from qedge.runtime.model import Model


def chat(
    self: Model,
    messages: Sequence[dict[str, Any]],
    max_tokens: int = 256,
    *,
    special: bool = False,
    tools: Sequence[dict[str, Any]] | None = None,
    documents: Sequence[dict[str, Any]] | None = None,
    continue_final_message: bool = False,
    variables: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[str]:
    """Yields the pieces of the assistant's answer to a conversation, through the model's own
    chat template.

    messages: [{"role": "system" | "user" | "assistant", "content": "…"}, …], all turns so
        far; append the answer for the next one.
    special: control tokens that are written in the messages count.
    tools, documents: what the template is given by these names.
    continue_final_message: the answer goes on in the last message.
    variables: whatever else the template knows, as {"enable_thinking": False}.
    options: as of `generate`.

    UsageError without the toolkit, which renders templates; ImageError when the image has
    none, or it fails.
    """
    from importlib import import_module

    try:  # by name: the runtime needs nothing of the toolkit, but may use it when it is there
        chat = import_module("qedge.toolkit.chat")
    except ImportError:
        raise UsageError(
            "chat needs the toolkit and jinja2, which render the model's template: install "
            "qedge here, or give generate the rendered text with special=True"
        ) from None
    tokens = chat.chat_tokens(
        self,
        messages,
        special=special,
        tools=tools,
        documents=documents,
        continue_final_message=continue_final_message,
        add_generation_prompt=not continue_final_message,
        variables=variables,
    )
    return self.generate(tokens, max_tokens, **options)
