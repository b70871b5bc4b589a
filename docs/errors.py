"""Lists in docs/errors.md the sentences that the package refuses something with: ``python docs/errors.py``.

They are read from the source: what ``InputError`` and its like are raised with, what ``_problems`` yields, and the
functions that these call. What a sentence names at run time stands in angle brackets.
"""

from __future__ import annotations

import ast
import errno
import operator
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from convmixer.errors import REFUSALS

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src" / "convmixer"
DOCUMENT = HERE / "errors.md"

_SENTENCES = ("InputError", "RunBusyError")
_CLAUSES = {
    "BadImage": "After the name of an image file",
    "DamagedCheckpointError": "After or before others, of a checkpoint",
    "BuildError": "After “fast kernels are not available, PyTorch's own are used instead”, which is no error",
}
"""Exceptions whose texts become part of a sentence, and of which."""
_MOST_FORMS = 12  # of one sentence
_UNKNOWN = "…"
_CALLS = 3  # from an exception to the text
_WORDS = {"error.strerror": "reason", "self.path": "path", "self.folder": "folder", "run.path": "run"}
_ARITHMETIC = {ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow, ast.RShift: operator.rshift}
_FLAG = re.compile(r"`(<name>|[a-z][a-z0-9_]*)`")

_Function = ast.FunctionDef | None


class Module:
    """A module's source, and the sentences in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.functions = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}
        self.constants = {
            node.targets[0].id: node.value
            for node in self.tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }

    def sentences(self, exceptions: Iterable[str]) -> list[str]:
        """What exceptions of these names are raised with, in the order of the source, each once."""
        found: dict[str, None] = {}
        nodes = [node for node in ast.walk(self.tree) if isinstance(node, (ast.Call, ast.Yield))]
        for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset)):
            text = self._said(node, tuple(exceptions))
            for form in self._forms(text, self._function(node), _CALLS) if text else ():
                if re.search(r"[a-z]{2}", re.sub(r"<[^>]*>", "", form)):  # else all of it is said elsewhere
                    found[form] = None
        return list(found)

    def _said(self, node: ast.Call | ast.Yield, exceptions: tuple[str, ...]) -> ast.expr | None:
        """The text that a call or a yield hands over, if it is one of ``exceptions``."""
        if isinstance(node, ast.Call):
            raised = isinstance(node.func, ast.Name) and node.func.id in exceptions and node.args
            return node.args[0] if raised else None
        function = self._function(node)
        return node.value if function and function.name == "_problems" and "InputError" in exceptions else None

    def _function(self, node: ast.AST | None) -> _Function:
        while node is not None and not isinstance(node, ast.FunctionDef):
            node = self.parents.get(node)
        return node

    def _forms(self, node: ast.expr, function: _Function, calls: int) -> list[str]:
        """What a text may say: more than one thing where it depends on something."""
        if isinstance(node, ast.Constant):
            return [str(node.value)]
        if isinstance(node, ast.JoinedStr):
            return self._together(node.values, function, calls)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and _is_text(node):
            return self._together((node.left, node.right), function, calls)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and _is_text(node.left):
            return [*self._forms(node.left, function, calls), ""]
        if isinstance(node, ast.IfExp):
            return self._forms(node.body, function, calls) + self._forms(node.orelse, function, calls)
        if isinstance(node, ast.FormattedValue):
            return self._inserted(node.value, function, calls)
        return (self._elsewhere(node, function, calls) if calls else []) or [f"<{self._word(node)}>"]

    def _together(self, parts: Iterable[ast.expr], function: _Function, calls: int) -> list[str]:
        forms = [""]
        for part in parts:
            forms = [form + more for form in forms for more in self._forms(part, function, calls)]
        if len(forms) > _MOST_FORMS:
            raise SystemExit(f"{self.path}: a sentence has {len(forms)} forms; write it as several")
        return forms

    def _inserted(self, node: ast.expr, function: _Function, calls: int) -> list[str]:
        """A part of a text: itself if it is words, else a word for it."""
        if isinstance(node, ast.IfExp) or (isinstance(node, ast.BinOp) and _is_text(node)):
            return self._forms(node, function, calls)
        if (number := self._number(node)) is not None:
            return [f"{number:,}"]
        if isinstance(node, ast.Name) and isinstance(self.constants.get(node.id), ast.Constant):
            return self._forms(self.constants[node.id], function, calls)
        forms = self._elsewhere(node, function, calls) if calls else []
        if any(re.fullmatch(r"(/?<[^>]*>)*[\w./]*", form) for form in forms if form):  # names and paths
            forms = []
        return forms or [f"<{self._word(node)}>"]

    def _elsewhere(self, node: ast.expr, function: _Function, calls: int) -> list[str]:
        """The forms of a text that a variable is bound to or a function returns; none if it cannot be told."""
        values: list[tuple[ast.expr, _Function]] = []
        if isinstance(node, ast.Name) and function:
            values = list(self._bound(node.id, function))
        elif isinstance(node, ast.Call) and _called(node) == "nearest":
            return ["did you mean <name>?"]
        elif isinstance(node, ast.Call) and _called(node) in self.functions:
            values = list(_returned(self.functions[_called(node)], 0))
            if not any(isinstance(value, (ast.JoinedStr, ast.BinOp)) for value, _ in values):
                return []
        return [form for value, within in values for form in self._forms(value, within, calls - 1)]

    def _bound(self, name: str, function: ast.FunctionDef) -> Iterator[tuple[ast.expr, _Function]]:
        """What a function binds a name to, and the function that the text is in; no arguments, no loop variables."""
        assignments = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
        for assignment, target in ((a, target) for a in assignments for target in a.targets):
            if isinstance(target, ast.Name) and target.id == name:
                yield assignment.value, function
            elif isinstance(target, ast.Tuple) and isinstance(assignment.value, ast.Call):
                place = [element.id if isinstance(element, ast.Name) else "" for element in target.elts]
                if name in place and _called(assignment.value) in self.functions:
                    yield from _returned(self.functions[_called(assignment.value)], place.index(name))

    def _word(self, node: ast.expr) -> str:
        """What stands for something that is not known before run time."""
        if isinstance(node, ast.Name):
            return node.id.strip("_").replace("_", " ").lower()
        if isinstance(node, ast.Attribute):
            return _WORDS.get(ast.unparse(node), node.attr.strip("_").replace("_", " "))
        if isinstance(node, ast.BoolOp):
            return self._word(node.values[0])
        if isinstance(node, ast.BinOp):
            return self._sum(node)
        if isinstance(node, (ast.Subscript, ast.Starred)):
            return self._word(node.value)
        if isinstance(node, ast.Call):
            inner = [*node.args, *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]
            words = [word for word in map(self._word, inner) if re.search("[a-z]", word)]
            return words[0] if words else _called(node).strip("_").replace("_", " ")
        if isinstance(node, (ast.GeneratorExp, ast.ListComp)):
            return self._word(node.generators[0].iter)
        if isinstance(node, ast.Tuple):
            return self._word(node.elts[-1])
        return str(node.value) if isinstance(node, ast.Constant) else _UNKNOWN

    def _sum(self, node: ast.BinOp) -> str:
        """A path or a calculation."""
        if isinstance(node.op, ast.Div) and self._number(node.right) is None:
            return f"{self._word(node.left)}/{self._word(node.right)}"
        signs = {ast.Add: "+", ast.Sub: "-", ast.FloorDiv: "/", ast.Mult: "×"}
        right = self._word(node.right)
        known = type(node.op) in signs and right != _UNKNOWN
        return self._word(node.left) + (f" {signs[type(node.op)]} {right}" if known else "")

    def _number(self, node: ast.expr) -> int | None:
        if isinstance(node, ast.Name) and node.id in self.constants:
            return self._number(self.constants[node.id])
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            left, right = self._number(node.left), self._number(node.right)
            known = left is not None and right is not None
            return _ARITHMETIC[type(node.op)](left, right) if known else None
        return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def _called(node: ast.Call) -> str:
    """The name of the function, or of the method."""
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def _is_text(node: ast.expr) -> bool:
    """Whether an expression is a text that is partly there."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, (ast.Add, ast.Mult)) and (_is_text(node.left) or _is_text(node.right))
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) or _is_text(node.orelse)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _returned(function: ast.FunctionDef, place: int) -> Iterator[tuple[ast.expr, _Function]]:
    """What a function returns, of a tuple the element at ``place``, and the function."""
    for node in ast.walk(function):
        value = node.value if isinstance(node, ast.Return) else None
        if isinstance(value, ast.Tuple):
            value = value.elts[place] if place < len(value.elts) else None
        if value is not None and not (isinstance(value, ast.Constant) and not value.value):
            yield value, function


def refusals() -> str:
    """What the operating system may refuse, and what the command line adds to its words."""
    rows = [f"| `{errno.errorcode[number]}` | … {advice} |" for number, advice in REFUSALS.items()]
    return "\n".join(["| the system says | and we say |", "| --- | --- |", *rows])


def messages() -> str:
    """Every sentence, by part of the package and module."""
    sections: list[str] = []
    parts = sorted(path for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file())
    for part in parts:
        modules = [Module(path) for path in (sorted(part.rglob("*.py")) if part.is_dir() else [part])]
        lines: list[str] = []
        for module in modules:
            own = [_item(text) for text in module.sentences(_SENTENCES)]
            for exception, place in _CLAUSES.items():
                clauses = [_item(text) for text in module.sentences([exception])]
                own += [f"- {place}:", *(f"  {clause}" for clause in clauses)] if clauses else []
            if own:
                lines += ["", f"`{module.path.relative_to(SOURCE).as_posix()}`", "", *own]
        if lines:
            sections += ["", f"### {part.stem}", *lines]
    return "\n".join(sections[1:])


def _item(text: str) -> str:
    """A list item; arguments are shown as the command line names them."""
    return "- `" + _FLAG.sub(lambda match: "--" + match[1].replace("_", "-"), text).replace("`", "'") + "`"


MADE = {"refusals": refusals, "messages": messages}


def filled(text: str) -> str:
    """The document's text with what stands between its comments made anew."""
    for name, make in MADE.items():
        start, end = f"<!-- made: {name} -->\n", f"\n<!-- end: {name} -->"
        before, opened, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        assert opened, name
        assert closed, name
        text = before + start + make() + end + after
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
