"""Draws the pictures of the documentation and fills the README's tables again: ``python docs/figures.py``."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

from convmixer.models import describe_models
from convmixer.report.facts import facts
from convmixer.report.markdown import markdown_table
from convmixer.report.records import ComparisonRow, StudyRecord
from convmixer.report.tables import summary
from convmixer.utils.architecture import architecture
from convmixer.utils.visualization import save_figure

HERE = Path(__file__).parent
ROOT = HERE.parent

# What a file without a docstring of its own is for.
_PURPOSES = {
    "Makefile": "set-up, demo, tests, checks",
    "requirements.txt": "exact versions of what the tests ran with",
    "pyproject.toml": "ranges of dependencies, settings of the tools",
    "docs/": "protocol, experiments, messages, pictures",
    "benchmarks/": "the reference recipe as a plain script, all measurements on a GPU, figures of the engine",
    "results/": "committed records and tables; runs go here by default",
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


def bench_table() -> str:
    """Images per second from the committed benchmark, and how many times the plain engine's that is."""
    records = json.loads((ROOT / "results" / "cpu" / "bench" / "records.json").read_text(encoding="utf-8"))
    groups: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["what"], record["kernel_size"]), {})[record["setting"]] = record
    lines = [
        "| img/s (÷ plain) | plain | best stock, float32 | fast, float32 | best stock, bfloat16 | fast, bfloat16 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (what, kernel_size), settings in groups.items():
        cells = [f"{settings['plain']['images_per_second']:.0f}"]
        for bf16, fast in ((False, "fast"), (True, "fast+bf16")):
            stock = [r for name, r in settings.items() if r["engine"] == "plain" and ("bf16" in name) == bf16]
            best = max(stock, key=lambda record: record["images_per_second"])
            cells += [f"{_speed(best)} {best['setting']}", _speed(settings[fast])]
        lines.append(f"| {'training step' if what == 'train' else 'inference'}, k{kernel_size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def bench_records() -> str:
    """All records of the committed benchmark, fastest first within each group."""
    records = json.loads((ROOT / "results" / "cpu" / "bench" / "records.json").read_text(encoding="utf-8"))
    records.sort(key=lambda r: (r["what"] != "train", -r["kernel_size"], -r["images_per_second"]))
    lines = ["| what | setting | img/s | range | ÷ plain | of GEMM peak | peak memory |", "| --- " * 7 + "|"]
    for r in records:
        share = r["flops_per_second"] / r["gemm_flops_per_second"]
        lines.append(
            f"| {r['what']} k{r['kernel_size']} | {r['setting']} | {r['images_per_second']:.1f} "
            f"| {r['slowest']:.1f} to {r['fastest']:.1f} | {r['ratio_to_plain']:.2f} | {share:.0%} "
            f"| {r['peak_bytes'] / 2**20:.0f} MiB |"
        )
    return "\n".join(lines)


def engine_facts() -> str:
    """Figures of the engine that are no comparison of speed."""
    facts = json.loads((ROOT / "results" / "cpu" / "engine" / "records.json").read_text(encoding="utf-8"))
    rows = [f"| {fact['name']} | {fact['value']:.3g} {fact['unit']}".rstrip() + " |" for fact in facts]
    return "\n".join([f"| {facts[0]['device_name']}, PyTorch {facts[0]['torch']} | |", "| --- | --- |", *rows])


def _speed(record: dict[str, Any]) -> str:
    return f"{record['images_per_second']:.0f} ({record['ratio_to_plain']:.1f}×)"


def results() -> str:
    """The committed studies, GPU first: a table for each of what the original document has, and where the rest is."""
    files = [file for kind in ("gpu", "cpu") for file in sorted((ROOT / "results" / kind).glob("study*/records.json"))]
    parts = []
    for file in files:
        record = StudyRecord.from_dict(json.loads(file.read_text(encoding="utf-8")))
        told = {name: value for name, value in facts(record).items() if name in ("Data", "Machine", "Commit")}
        where = file.parent.relative_to(ROOT).as_posix()
        parts.append(f"{'; '.join(told.values())}; everything else in [{where}]({where}/report.md).")
        parts.append(markdown_table(summary(document_rows(record), "")))
    return "\n\n".join(parts) or "No study has been committed yet."


def document_rows(record: StudyRecord) -> list[ComparisonRow]:
    """The rows of the experiments that the document has, each once, and the winner of the grid search."""
    rows: dict[tuple[str, ...], ComparisonRow] = {}
    for experiment in record.experiments:
        if any(row.document and not row.is_base for row in experiment.rows):
            rows |= {row.runs: row for row in experiment.rows if row.runs not in rows}
    return [*rows.values(), *([record.grid.winner] if record.grid and record.grid.winner else [])]


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


MADE = {
    ROOT / "README.md": {"models": models_table, "results": results, "bench": bench_table, "tree": tree},
    ROOT / "results" / "cpu" / "bench" / "README.md": {"records": bench_records},
    ROOT / "docs" / "engine.md": {"facts": engine_facts},
}
"""Documents with the parts that are made, each between two comments."""


def filled(document: Path) -> str:
    """A document's text with what stands between its comments made anew."""
    text = document.read_text(encoding="utf-8")
    for name, make in MADE[document].items():
        start, end = f"<!-- made: {name} -->\n", f"\n<!-- end: {name} -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = before + start + make() + end + after
    return text


if __name__ == "__main__":
    draw(HERE)
    for document in MADE:
        document.write_text(filled(document), encoding="utf-8")
