"""Help that fits the terminal: examples, the options used most, and the others in groups."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from convmixer.cli.commands import COMMANDS, Command

_INDENT = 26
_TITLES = {
    "run options": "run",
    "run.architecture options": "architecture",
    "run.data options": "data",
    "run.augment options": "augmentation",
    "run.train options": "training",
    "search options": "search",
}


def overview() -> str:
    """Help of the program: its commands, and where to begin."""
    width = max(map(len, COMMANDS))
    lines = ["usage: convmixer COMMAND [OPTIONS]", "", "Train, evaluate and use ConvMixer image classifiers.", ""]
    lines += ["commands:", *(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()), ""]
    lines += ["options:", "  --version          print the version"]
    lines += ["  --completion SHELL  print completion code for bash, zsh or tcsh", ""]
    lines += ["begin with:", *(f"  convmixer {line}" for line in COMMANDS["train"].examples[:1])]
    lines += ["", "convmixer COMMAND --help shows the options of a command."]
    return "\n".join(lines)


def command_help(name: str, command: Command, parser: argparse.ArgumentParser) -> str:
    """Help of a command, from the parser that tyro made for it."""
    width = min(max(shutil.get_terminal_size().columns, 60), 110)
    groups = [(group.title or "", list(group._group_actions)) for group in parser._action_groups]
    positional = [action for _, actions in groups for action in actions if not action.option_strings]
    names = " ".join(_metavar(action) + (" ..." if action.nargs == "*" else "") for action in positional)
    lines = [f"usage: convmixer {name} [OPTIONS] {names}".rstrip(), ""]
    lines += [*textwrap.wrap(" ".join((parser.description or command.summary).split()), width), ""]
    lines += ["examples:", *(f"  convmixer {example}" for example in command.examples), ""]
    lines += _section("arguments", positional, width)
    options = {flag.lstrip("-"): action for _, acts in groups for action in acts for flag in action.option_strings}
    common = [options[flag] for flag in command.common if flag in options]
    lines += _section("common options", common, width)
    for title, actions in groups:
        rest = [action for action in actions if action.option_strings and action not in common]
        lines += _section(f"{_TITLES.get(title, title.replace(' options', ''))} options".strip(), rest, width)
    return "\n".join(lines).rstrip()


def _section(title: str, actions: Iterable[argparse.Action], width: int) -> list[str]:
    shown = [line for action in actions if action.help != argparse.SUPPRESS for line in _entry(action, width)]
    return [f"{'options' if title.startswith('options') else title}:", *shown, ""] if shown else []


def _entry(action: Any, width: int) -> Iterator[str]:
    metavar = "" if action.nargs == 0 else _metavar(action)
    left = "  " + " ".join(filter(None, (", ".join(action.option_strings), metavar)))
    text = " ".join(str(action.help or "").split())
    text = re.sub(r" ?\((default: (None|False|True|''|\"\"|\{?\}?)|required)\)$", "", text)
    if any(flag.startswith("--no-") for flag in action.option_strings):
        text = f"Turn this off: {text[:1].lower()}{text[1:]}"
    wrapped = textwrap.wrap(text, width - _INDENT, break_on_hyphens=False) or [""]
    if len(left) > _INDENT - 2:
        yield from textwrap.wrap(
            left.strip(), width, initial_indent="  ", subsequent_indent=" " * 6, break_on_hyphens=False
        )
    else:
        yield f"{left:<{_INDENT}}{wrapped.pop(0)}".rstrip()
    yield from (" " * _INDENT + line for line in wrapped)


def _metavar(action: argparse.Action) -> str:
    """What stands for the value: PATH for ``{None}|PATH``, the argument's own name where it has no flag."""
    if not action.option_strings:
        return str(action.dest).rpartition(".")[2].upper()
    text = str(action.metavar or "")
    text = re.sub(r"\{None\}\|", "", text).replace("{None,", "{").replace("{True,False}", "{True,False}")
    return re.sub(r"^\[?\[?(\w+)( \[\1 \.\.\.\])?\]*$", r"\1", text)
