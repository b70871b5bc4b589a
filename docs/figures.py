"""Draws the pictures of the documentation and fills the README's tables again: ``python docs/figures.py``."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from convmixer.models import describe_models
from convmixer.utils.visualization import architecture, save_figure

HERE = Path(__file__).parent
ROOT = HERE.parent

# What a file without a docstring of its own is for.
_PURPOSES = {
    "Makefile": "set-up, demo, tests, checks",
    "requirements.txt": "exact versions of what the tests ran with",
    "pyproject.toml": "ranges of dependencies, settings of the tools",
    "docs/": "protocol, messages, pictures",
    "benchmarks/": "what to compare with: the reference recipe as a plain script",
    "tests/": "mirrors src/convmixer",
}


def draw(folder: Path) -> None:
    """Writes every picture into ``folder``."""
    figure = architecture(dim=256, depth=8, kernel_size=9, patch_size=2, n_classes=10, image_size=32)
    save_figure(figure, folder / "architecture.svg")


def models_table() -> str:
    """The models as Markdown rows."""
    lines = [
        "| model | variant | h/d | kernel | patch | input | parameters | multiply-adds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in describe_models():
        side = row.image_size
        lines.append(
            f"| `{row.model}` | {row.variant} | {row.dim}/{row.depth} | {row.kernel_size} | {row.patch_size} "
            f"| {side}×{side} | {row.parameters:,} | {row.multiply_adds / 1e6:,.1f} M |"
        )
    return "\n".join(lines)


def tree() -> str:
    """The folders and files with what each is for: the first sentence of its docstring."""
    package = ROOT / "src" / "convmixer"
    entries = [(f"{name}", purpose) for name, purpose in _PURPOSES.items()]
    entries += [(path.name, _purpose(path)) for path in sorted(ROOT.glob("*.py"))]
    entries.append(("src/convmixer/", ""))
    entries += [(f"  {path.name}", _purpose(path)) for path in sorted(package.glob("[!_]*.py"))]
    for folder in sorted(path.parent for path in package.glob("*/__init__.py")):
        entries.append((f"  {folder.name}/", _purpose(folder / "__init__.py")))
        entries += [(f"    {path.name}", _purpose(path)) for path in sorted(folder.glob("[!_]*.py"))]
    width = max(len(name) for name, _ in entries) + 2
    lines = [f"{name:<{width}}{purpose}".rstrip() for name, purpose in entries]
    return "\n".join(["```", *lines, "```"])


def _purpose(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = re.split(r"(?<=\.) ", " ".join(docstring.split("\n\n")[0].split()))[0]
    return first.rstrip(".").replace("``", "")


def filled(readme: str) -> str:
    """The README with what stands between its markers made anew."""
    for name, content in (("models", models_table()), ("tree", tree())):
        start, end = f"<!-- made: {name} -->\n", f"\n<!-- end: {name} -->"
        before, _, rest = readme.partition(start)
        _, _, after = rest.partition(end)
        readme = before + start + content + end + after
    return readme


if __name__ == "__main__":
    draw(HERE)
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
