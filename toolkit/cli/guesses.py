"""What people type instead of a verb of ours, or in another place: what is plainly meant is
done, for the rest they hear what to type."""

from __future__ import annotations

from difflib import get_close_matches

import click

# The words of other tools, and what they are here.
_RUN = 'qedge run TARGET "…"'  # an image, a model's file or name, or a board
HINTS = {
    "chat": f"{_RUN} --chat (one turn; Model.chat in Python has several)",
    "ask": f"{_RUN} --chat",
    "generate": _RUN,
    "complete": _RUN,
    "prompt": _RUN,
    "infer": _RUN,
    "serve": "there is no server; qedge.Model is the way from a program",
    "server": "there is no server; qedge.Model is the way from a program",
    "list": "qedge boards (models are files; qedge pull names those that it knows)",
    "ls": "qedge boards (models are files; qedge pull names those that it knows)",
    "models": "qedge pull --help names the models that it knows",
    "devices": "qedge boards",
    "ports": "qedge boards",
    "download": "qedge pull",
    "fetch": "qedge pull",
    "get": "qedge pull",
    "convert": "qedge build",
    "quantize": "qedge build … --quant TYPE",
    "compile": "qedge build",
    "pack": "qedge build",
    "create": "qedge build",
    "info": "qedge inspect IMAGE",
    "show": "qedge inspect IMAGE",
    "verify": "qedge inspect IMAGE --verify",
    "check": "qedge test IMAGE",
    "benchmark": "qedge bench IMAGE",
    "perplexity": "qedge eval IMAGE TEXTFILE",
    "evaluate": "qedge eval IMAGE TEXTFILE",
    "divergence": "qedge eval IMAGE TEXTFILE --against IMAGE2",
    "formats": "qedge compare MODEL -b BOARD",
    "tokens": "qedge tokenize IMAGE TEXT",
    "upload": "qedge flash IMAGE -b BOARD",
    "deploy": "qedge flash IMAGE -b BOARD",
    "install": "qedge flash IMAGE -b BOARD",
    "write": "qedge flash IMAGE -b BOARD",
    "update": "qedge flash IMAGE -b BOARD",
    "undo": "qedge rollback -b BOARD",
    "restart": "qedge reset -b BOARD",
    "reboot": "qedge reset -b BOARD",
    "simulate": "qedge emulate -b BOARD",
    "keygen": "qedge keys new FILE",
}


def meant(group: click.Group, context: click.Context, words: list[str]) -> list[str]:
    """The words that were meant, for a first one that is no verb. UsageError with a hint when
    that is not plain."""
    word, rest = words[0], words[1:]
    if word == "help":
        known = [name for name in rest if group.get_command(context, name) is not None]
        if known:
            return [known[0], "--help"]
        click.echo(context.get_help())
        context.exit()
    if word == "version":
        group.main(["--version"], prog_name=context.info_name, standalone_mode=False)
        context.exit()
    if word.lower() in group.list_commands(context):
        return [word.lower(), *rest]
    raise click.UsageError(f"No such command '{word}'.{_hint(group, context, word)}", context)


def _hint(group: click.Group, context: click.Context, word: str) -> str:
    if (hint := HINTS.get(word.lower())) is not None:
        return f" Here it is: {hint}"
    if word.endswith((".qimg", ".gguf")) or "/" in word:
        return f' A verb comes first: qedge run {word} "…"'
    near = get_close_matches(word, group.list_commands(context), 1)
    return f" Did you mean '{near[0]}'?" if near else " `qedge help` lists what there is."


def misplaced(
    group: click.Group, context: click.Context, words: list[str], error: click.NoSuchOption
) -> tuple[str, list[str]]:
    """The message for an option before the verb that no group has, and its look-alikes."""
    verbs = [word for word in words if group.get_command(context, word) is not None]
    verb = verbs[0] if verbs else "VERB"
    if _verbs_with(group, context, error.option_name):
        there = f"qedge {verb} … {error.option_name}"
        return f"{error.option_name} stands behind the verb: {there}", []
    return error.message, list(error.possibilities or [])


def elsewhere(
    group: click.Group, context: click.Context, error: click.NoSuchOption
) -> list[str]:
    """What may be meant by an option that a verb does not have: its look-alikes there, or the
    verbs that have it."""
    verbs = _verbs_with(group, context, error.option_name)
    if not verbs:
        return list(error.possibilities or [])
    return [f"qedge {verb} … {error.option_name}" for verb in verbs]


def _verbs_with(group: click.Group, context: click.Context, option: str) -> list[str]:
    return [
        name
        for name in group.list_commands(context)
        for parameter in getattr(group.get_command(context, name), "params", ())
        if option in parameter.opts
    ]
