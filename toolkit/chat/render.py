"""Renders a chat template in a process of its own (renderer.py), which the system ends when it
takes too much: a template comes with a model, and is a program that a stranger wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qedge.runtime.errors import ImageError, ToolError, UsageError

CPU_SECONDS = 1.5  # a real template takes milliseconds
MEMORY_BYTES = 256 << 20  # of address space, and so many times what it is given:
MEMORY_TIMES = 24
OUTPUT_CHARACTERS = 1 << 24
_WALL_SECONDS = 120  # of a machine that does many other things
_RENDERER = Path(__file__).with_name("renderer.py")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation: `written` are the (start, stop) of the characters that the
    template wrote, ascending; the others came with the messages."""

    text: str
    written: tuple[tuple[int, int], ...]


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    special_tokens: Mapping[str, str] | None = None,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> Rendered:
    """The prompt for messages ({"role", "content", …}), ready for the assistant's turn.

    special_tokens: their texts by name ("bos_token", …), as the template asks for them.
    continue_final_message: the text ends inside the last message.
    variables: whatever else the template knows ("enable_thinking", …).

    ImageError when the template is broken, refuses the messages, or takes more than 1.5 s,
    256 MiB or 16 M characters. UsageError when the messages are none.
    """
    _check(messages, add_generation_prompt and continue_final_message)
    request = _json(
        {
            "template": template,
            "messages": messages,
            "special_tokens": dict(special_tokens or {}),
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "variables": dict(variables or {}),
        }
    )
    limits = {
        "cpu_seconds": CPU_SECONDS,
        "memory_bytes": MEMORY_BYTES + MEMORY_TIMES * len(request),
        "output_characters": OUTPUT_CHARACTERS,
    }
    answer = _rendered(f'{{"limits": {json.dumps(limits)}, {request[1:]}')
    if "error" in answer:
        raise _failure(answer["error"])
    return Rendered(answer["text"], tuple((start, stop) for start, stop in answer["runs"]))


def _check(messages: Sequence[Mapping[str, Any]], twice: bool) -> None:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise UsageError('messages are a list: [{"role": "user", "content": "…"}]')
    if not messages:
        raise UsageError("a conversation needs at least one message")
    for message in messages:
        if not isinstance(message, Mapping) or not all(isinstance(k, str) for k in message):
            raise UsageError('a message is {"role": "user", "content": "…"}; one is not')
        if not isinstance(message.get("role"), str):
            raise UsageError('a message has no "role"; give "user", "assistant" or "system"')
    if twice:
        raise UsageError("a final message that is continued has no assistant's turn behind it")


def _json(request: dict[str, Any]) -> str:
    try:
        return json.dumps(request, default=lambda value: f"<{type(value).__name__}>")
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the messages are not plain lists and texts: {error}") from None


def _rendered(request: str) -> dict[str, Any]:
    """What the process answers. It gets nothing but Python's library and jinja2."""
    found = [spec for name in ("jinja2", "markupsafe") if (spec := find_spec(name)) is not None]
    places = [os.path.dirname(os.path.dirname(spec.origin or "")) for spec in found]
    if len(found) < 2 or not sys.executable:
        raise ToolError("chat templates need jinja2 and a Python; pip install jinja2")
    start = (
        f"import sys; sys.path[:0] = [{str(_RENDERER.parent)!r}]; sys.path += {places!r}; "
        "import renderer; renderer.main()"
    )
    command = [sys.executable, "-S", "-s", "-B", "-X", "utf8", "-c", start]
    try:
        done = subprocess.run(
            command,
            input=request.encode(),
            capture_output=True,
            timeout=_WALL_SECONDS,
            check=False,
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        raise _failure("it does not end") from None
    except OSError as error:
        raise UsageError(f"{sys.executable}: cannot be started ({error.strerror})") from None
    if done.returncode in (-signal.SIGPROF, -signal.SIGXCPU):
        raise _failure(f"it takes longer than {CPU_SECONDS:g} s")
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = said[-1] if said else f"its process ended by {done.returncode}"
        raise _failure(f"it cannot be rendered ({why})") from None


def _failure(why: str) -> ImageError:
    return ImageError(f"the chat template fails: {why}; run without --chat")
