"""Renders one chat template: the program that `render` starts in a process of its own.

A request comes as JSON on standard input and is answered by one on standard output, inside
limits of time, memory and output that the system holds it to. It imports jinja2 and `marked`
and nothing else, so that it starts fast. The environment is what transformers gives to chat
templates (its utils/chat_template_utils.py, version 5).
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import update_wrapper
from typing import Any, cast

import jinja2
from jinja2 import nodes, pass_eval_context
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

if __package__:
    from qedge.toolkit.chat.marked import Marked, is_written, joined, written
else:  # a program of its own, beside its one module
    from marked import (  # type: ignore[import-not-found,no-redef]
        Marked,
        is_written,
        joined,
        written,
    )

CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG "
REASONING = ("reasoning_content", "thinking", "reasoning")  # the first is what templates read
# What a program calls the one who speaks. Such a word is trusted, since a template may make
# a control token of it; any other could come from a user.
ROLES = (
    *("system", "developer", "user", "human", "assistant", "model", "gpt", "tool"),
    *("tool_response", "ipython", "function", "environment", "documents", "context"),
)


_SURROUNDINGS = (EvalContext, Context, jinja2.Environment)


class Refused(Exception):
    """The template cannot be rendered, in words for its user."""


class Generation(Extension):
    """`{% generation %}`: what an assistant said. The text is what stands inside."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_said")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], str]) -> str:
        return caller()


class Names(Namespace):
    """`namespace`; a name with an underscore in front could reach Python's own."""

    def __init__(*values: Any, **named: Any) -> None:
        self, values = values[0], values[1:]
        found = dict(*values, **named)
        for name in found:
            _allowed(name)
        Namespace.__init__(self, found)

    def __setitem__(self, name: str, value: Any) -> None:
        _allowed(name)
        Namespace.__setitem__(self, name, value)


def _allowed(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name with an underscore in front: {name!r}")


class Dict:
    """`dict`, of which a template gets these two and nothing else."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)

    def fromkeys(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict.fromkeys(*values, **named)


def raise_exception(message: Any) -> None:
    raise TemplateError(str(message))


def strftime_now(format: str) -> str:  # called by name, too
    return datetime.now().strftime(format)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: jinja2's own would escape it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, whose text knows what the template wrote."""

    concat = staticmethod(joined)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=shown,
            extensions=[Generation, "jinja2.ext.loopcontrols"],
        )
        self.filters["tojson"] = tojson
        for name, function in self.filters.items():
            self.filters[name] = _keeping(function)
        self.filters["join"] = _join
        self.globals |= {
            "raise_exception": raise_exception,
            "strftime_now": strftime_now,
            "dict": Dict(),
            "namespace": Names,
        }
        self.written_texts = 0

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        made: nodes.Template = Written(self).visit(super()._parse(source, name, filename))
        return made

    def keep(self, text: str) -> nodes.Expr:
        """An expression for a text that stands in the template."""
        self.written_texts += 1
        name = f"written_{self.written_texts}"
        setattr(self, name, written(text))
        return nodes.EnvironmentAttribute(name)

    def chained(self, *values: Any) -> Marked:
        """`a ~ b`."""
        return joined(map(shown, values))

    def wrap_str_format(self, value: Any) -> Any:
        made = super().wrap_str_format(value)
        form = getattr(value, "__self__", None)
        if made is None or not isinstance(form, Marked):
            return made

        def wrapper(*values: Any, **named: Any) -> str:
            text = cast(Marked, made(*values, **named)).plain()
            given: tuple[Any, Any] = (values, named)
            if value.__name__ == "format_map":
                given = (), values[0]
            kept = joined(_format_parts(self, form, *given))
            return kept if kept == text else Marked(text)

        return wrapper


def _format_parts(env: Any, form: Marked, values: Any, named: Any) -> list[str]:
    """What `form.format()` is made of, as far as it is simple; the caller compares."""
    formatter = SandboxedFormatter(env)
    parts: list[str] = []
    at = next_value = 0
    for literal, field, spec, conversion in formatter.parse(form.plain()):
        start = str.find(form, literal, at)
        parts.append(form[start : start + len(literal)])
        at = start + len(literal)
        if field is None:
            continue
        if not field or field.isdigit():
            value = values[next_value if not field else int(field)]
            next_value += 1
        else:
            value = formatter.get_field(field, values, named)[0]
        plain = not spec and conversion is None
        text = shown(value) if plain else Marked(formatter.format_field(value, spec or ""))
        parts.append(text)
    return parts


class Written(NodeTransformer):
    """Makes marked text of all text that stands in a template."""

    def __init__(self, environment: Sandbox) -> None:
        self._environment = environment

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return self._environment.keep(node.data).set_lineno(node.lineno)

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        if not isinstance(node.value, str):
            return node
        return self._environment.keep(node.value).set_lineno(node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        """A constant key is no text that could be shown."""
        node.node = self.visit(node.node)
        if not isinstance(node.arg, nodes.Const):
            node.arg = self.visit(node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        if not isinstance(node.key, nodes.Const):
            node.key = self.visit(node.key)
        node.value = self.visit(node.value)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        parts = [self.visit(part) for part in node.nodes]
        made = nodes.EnvironmentAttribute("chained")
        return nodes.Call(made, parts, [], None, None).set_lineno(node.lineno)


def shown(value: Any) -> str:
    """A value as a template shows it. Numbers are the template's: no user writes by them."""
    text = str(value)
    if isinstance(text, Marked) or not is_written(value):
        return text
    return written(text)


def _keeping(function: Any) -> Any:
    """A filter whose text is the template's if all that went into it was."""

    def call(*values: Any, **named: Any) -> Any:
        result = function(*values, **named)
        if type(result) is not str:
            return result
        given = [*values, *named.values()]
        texts = [value for value in given if not isinstance(value, _SURROUNDINGS)]
        return written(result) if all(map(is_written, texts)) else result

    return update_wrapper(call, function)


@pass_eval_context
def _join(context: Any, value: Any, d: str = "", attribute: Any = None) -> str:
    """jinja2's join, on marked text."""
    if context.autoescape or hasattr(d, "__html__"):
        return jinja2.filters.sync_do_join(context, value, d, attribute)
    if attribute is not None:
        value = map(jinja2.filters.make_attrgetter(context.environment, attribute), value)
    between = d if isinstance(d, Marked) else Marked(str(d))
    return between.join(map(shown, value))


def render(request: Mapping[str, Any]) -> Marked:
    """The text of a request. Refused when its template is broken or refuses the messages."""
    messages = [_named(_marked(message)) for message in request["messages"]]
    variables = {name: written(text) for name, text in request["special_tokens"].items()}
    continued = request["continue_final_message"]
    if continued:
        _tag(messages, request["template"])
    try:
        compiled = Sandbox().from_string(request["template"])
        text = joined(
            compiled.generate(
                **{
                    "messages": messages,
                    "tools": _marked(request["tools"]),
                    "documents": _marked(request["documents"]),
                    "add_generation_prompt": request["add_generation_prompt"],
                    **variables,
                    **_marked(request["variables"]),
                }
            )
        )
    except TemplateSyntaxError as error:
        raise Refused(f"line {error.lineno}: {error.message}") from None
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # a template is a program: any failure of it is the model's
        raise Refused(str(error) or type(error).__name__) from None
    return _untagged(text) if continued else text


def _marked(value: Any) -> Any:
    """What a user gave: its texts are nobody else's, whatever a template makes of them."""
    if isinstance(value, str):
        return Marked(value)
    if isinstance(value, list):
        return [_marked(item) for item in value]
    if isinstance(value, dict):
        return {key: _marked(item) for key, item in value.items()}
    return value


def _named(message: Any) -> dict[str, Any]:
    """A message as templates get it: nothing that is None, the reasoning under its names."""
    found = {key: value for key, value in message.items() if value is not None}
    if found.get("role") in ROLES:
        found["role"] = written(found["role"])
    thought = next((found[key] for key in REASONING if key in found), None)
    if thought is not None:
        found = {"thinking": thought, **found, "reasoning_content": thought}
    return found


def _tag(messages: Sequence[dict[str, Any]], template: str) -> None:
    """Marks the end of the last message, behind which the text is cut off."""
    last = messages[-1].get("content") if messages else None
    if isinstance(last, str) and "content" in template:
        messages[-1]["content"] = last + CONTINUED
        return
    for part in reversed(last if isinstance(last, list) else []):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            part["text"] += CONTINUED
            return
    raise Refused("the last message has no content that could be continued")


def _untagged(text: Marked) -> Marked:
    at = text.rfind(CONTINUED.strip())
    if at < 0:
        raise Refused("it leaves out the last message, so that it cannot be continued")
    return text[:at] if text[at:].startswith(CONTINUED) else text[:at].rstrip()


def _limit(cpu_seconds: float, memory_bytes: int) -> None:
    """From here on the system ends this process when it takes more."""
    import resource

    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    for name, value in (
        ("RLIMIT_AS", memory_bytes),
        ("RLIMIT_CPU", int(cpu_seconds) + 2),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_CORE", 0),
    ):
        with suppress(ValueError, OSError, AttributeError):  # a system may not know it
            resource.setrlimit(getattr(resource, name), (value, value))


def main() -> None:
    request = json.load(sys.stdin)
    limits = request["limits"]
    _limit(limits["cpu_seconds"], limits["memory_bytes"])
    answer: dict[str, Any]
    try:
        text = render(request)
        if len(text) > limits["output_characters"]:
            most = limits["output_characters"]
            raise Refused(f"it makes {len(text):,} characters, of at most {most:,}")
        answer = {"text": text.plain(), "runs": text.runs()}
    except Refused as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": f"it takes more than {limits['memory_bytes'] >> 20} MiB of memory"}
    except RecursionError:
        answer = {"error": "it calls itself without end"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
