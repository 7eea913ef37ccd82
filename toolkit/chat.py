"""Renders a model's chat template, sandboxed, as transformers does."""

from __future__ import annotations

from collections.abc import Sequence

from qedge.runtime.errors import ImageError
from qedge.runtime.model import Model


def render(template: str, messages: Sequence[dict[str, str]], bos: str, eos: str) -> str:
    """The prompt for messages ({"role", "content"}), ready for the assistant's turn.

    ImageError when the template is broken or refuses the messages.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(template).render(
            messages=list(messages), add_generation_prompt=True, bos_token=bos, eos_token=eos
        )
    except Exception as error:  # a template is a program: any failure of it is the model's
        raise ImageError(f"the chat template fails: {error}; run without --chat") from error


def chat_tokens(model: Model, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a conversation through the model's template."""
    template = model.chat_template
    if template is None:
        raise ImageError(f"{model.path} has no chat template; run it without --chat")
    vocab = model.image.vocab
    names = [
        model.detokenize([vocab[key]], special=True).decode("utf-8", "replace")
        if vocab[key] is not None
        else ""
        for key in ("bos", "eos")
    ]
    tokens = model.tokenize(render(template, messages, *names), special=True)
    if vocab["add_bos"] and tokens[:1] != [vocab["bos"]]:
        tokens.insert(0, vocab["bos"])  # most templates write it themselves
    return tokens
