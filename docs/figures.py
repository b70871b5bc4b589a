"""Draws the pictures of the documentation and fills the README's tables again: ``python docs/figures.py``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from convmixer.models import describe_models
from convmixer.report.insight import facts, of_row
from convmixer.report.records import ComparisonRow, StudyRecord
from convmixer.report.render import markdown_table
from convmixer.report.tables import summary
from convmixer.utils.architecture import architecture
from convmixer.utils.metrics import mean_interval, paired_difference
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
    records = _records("cpu", "bench")
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


def bench_records(kind: str, file: str = "records.json") -> str:
    """All records of a committed benchmark, ``cpu`` or ``gpu``, fastest first within each group."""
    records = [r for r in _records(kind, "bench", file) if r["what"] != "augment"]
    records.sort(key=lambda r: (r["what"] != "train", -r["kernel_size"], -r["images_per_second"]))
    fp16 = any(r.get("ratio_to_plain_fp16") for r in records)
    names = [
        "what",
        "setting",
        "img/s",
        "range",
        "÷ plain",
        *(["÷ plain, float16"] * fp16),
        "of GEMM peak",
        "peak memory",
    ]
    lines = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    for r in records:
        share = r["flops_per_second"] / r["gemm_flops_per_second"]
        digits = 0 if r["images_per_second"] >= 1000 else 1
        cells = [f"{r['what']} k{r['kernel_size']}", r["setting"], f"{r['images_per_second']:.{digits}f}"]
        cells += [f"{r['slowest']:.{digits}f} to {r['fastest']:.{digits}f}", f"{r['ratio_to_plain']:.2f}"]
        cells += [f"{r['ratio_to_plain_fp16']:.2f}"] if fp16 else []
        cells += [f"{share:.0%}", f"{r['peak_bytes'] / 2**20:.0f} MiB"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def sweep_table(file: str) -> str:
    """How the fast engine's speed changes with each size, training and inference in both precisions."""
    lines = []
    records = _records("cpu", "bench", file)
    for axis in dict.fromkeys(r["axis"] for r in records):
        group = [r for r in records if r["axis"] == axis]
        columns = list(dict.fromkeys((r["what"], r["precision"]) for r in group))
        heads = [f"{what}, {precision}" for what, precision in columns]
        lines += [f"| {axis} | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
        for value in dict.fromkeys(r["value"] for r in group):
            cells = {(r["what"], r["precision"]): r for r in group if r["value"] == value}
            told = [
                f"{r['fast_flops_per_second'] / 1e9:.0f} ({r['fast_ratio']:.2f}, {r['auto_ratio']:.2f})"
                for r in map(cells.__getitem__, columns)
            ]
            lines.append(f"| {value} | {' | '.join(told)} |")
        lines.append("")
    return "\n".join(lines[:-1])


def gpu_table() -> str:
    """Training on a GPU from the committed benchmark: the fast engine beside what else there is."""
    records = [r for r in _records("gpu", "bench") if r["what"] == "train"]
    names = ("plain", "plain+fp16", "channels_last+bf16", "timm+compile+bf16", "fast+bf16", "fast+graph+bf16")
    lines = [f"| img/s, {records[0]['device_name']} | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for kernel_size in sorted({r["kernel_size"] for r in records}):
        rates = {r["setting"]: r["images_per_second"] for r in records if r["kernel_size"] == kernel_size}
        cells = [f"{rates[name]:,.0f}" for name in names]
        lines.append(f"| training step, k{kernel_size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def augmentation(kind: str, file: str = "records.json") -> str:
    """The augmentation beside Pillow, and how long a training step waits for it."""
    records = [r for r in _records(kind, "bench", file) if r["what"] == "augment"]
    record = records[0]  # the networks differ, the images do not
    waits = "; ".join(
        f"of {r['model']} takes {r['step_seconds'] * 1000:.2f} ms and waits {r['wait_share']:.2%} of it for its images"
        for r in records
    )
    return (
        f"Batched: {record['images_per_second']:,.0f} img/s ({record['slowest']:,.0f} to {record['fastest']:,.0f}); "
        f"Pillow in {record['pillow_workers']} processes in the same run: {record['pillow_images_per_second']:,.0f} "
        f"({record['pillow_slowest']:,.0f} to {record['pillow_fastest']:,.0f}). A training step {waits}. "
        f"{record['device_name']}, batch {record['batch_size']}."
    )


def track_table() -> str:
    """`strong-short` beside `reference` on a small network: seeds, and the difference of runs with the same seed."""
    records = _records("cpu", "track")
    names = list(dict.fromkeys(r["recipe"] for r in records))
    runs = {name: [r for r in records if r["recipe"] == name] for name in names}
    lines = ["| recipe | test, by seed | mean | with the mirror image | training | everything |", "| --- " * 6 + "|"]
    for name in names:
        columns = {key: [r[key] for r in runs[name]] for key in ("test_accuracy", "test_accuracy_tta")}
        each = ", ".join(f"{value:.2%}" for value in columns["test_accuracy"])
        mirrored = mean_interval(columns["test_accuracy_tta"]).mean if all(columns["test_accuracy_tta"]) else None
        times = [sorted(r[key] for r in runs[name]) for key in ("training_seconds", "wall_seconds")]
        told = " | ".join(f"{seconds[0]:.0f} to {seconds[-1]:.0f} s" for seconds in times)
        lines.append(
            f"| `{name}` | {each} | {mean_interval(columns['test_accuracy']).mean:.2%} | "
            f"{'' if mirrored is None else f'{mirrored:.2%}'} | {told} |"
        )
    base, other = ({r["seed"]: 100 * r["test_accuracy"] for r in runs[name]} for name in names)
    difference = paired_difference(other, base)
    assert difference is not None
    assert difference.half_width is not None
    low, high = difference.mean - difference.half_width, difference.mean + difference.half_width
    told = f"{difference.mean:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
    return "\n".join([*lines, "", f"`{names[1]}` - `{names[0]}`, runs with the same seed: {told}, {len(base)} seeds."])


def recipe_search(small: bool) -> str:
    """The runs that the recipes were chosen by, of the small network or of 256/8, best first."""
    runs = [r for r in _records("gpu", "recipe-search") if ("dim" in r["changes"]) == small]
    lines = ["| round | settings | validation | training |", "| --- | --- | --- | --- |"]
    for r in sorted(runs, key=lambda r: -max(r["val_accuracy"], r["raw_val_accuracy"] or 0.0)):
        told = _recipe_text(r["changes"]) or f"`{r['recipe']}`"
        raw = f" ({r['raw_val_accuracy']:.2%} without)" if r["raw_val_accuracy"] else ""
        lines.append(f"| {r['round']} | {told} | {r['val_accuracy']:.2%}{raw} | {r['train_accuracy']:.2%} |")
    return "\n".join(lines)


def effects(name: str) -> str:
    """What each change of a designed experiment did: the mean of the runs with it minus that of those without it.

    ``results/cpu/recipe-search/designs.json`` says which runs belong to the design, and for each change which field has
    which value in the runs with it.
    """
    design = json.loads((ROOT / "results" / "cpu" / "recipe-search" / "designs.json").read_text(encoding="utf-8"))[name]
    runs = [r for r in _records("cpu", "recipe-search", design["records"]) if r["seed"] in design["seeds"]]
    rows: list[tuple[str, float, float]] = []
    for entry in design["changes"]:
        having = [{**r["changes"], **r["others"]}.get(entry["field"]) == entry["value"] for r in runs]
        shifts = []
        for metric in ("val_accuracy", "train_accuracy"):
            sides = [
                [100 * r[metric] for r, has in zip(runs, having, strict=True) if has is side] for side in (True, False)
            ]
            shifts.append(fmean(sides[0]) - fmean(sides[1]))
        rows.append((entry["change"], shifts[0], shifts[1]))
    heads = f"change ({len(runs)} runs, half of them with it)", "validation, points", "on training images"
    lines = [f"| {' | '.join(heads)} |", "| --- " * 3 + "|"]
    return "\n".join(lines + [f"| {t} | {v:+.2f} | {o:+.2f} |" for t, v, o in sorted(rows, key=lambda row: -row[1])])


def _recipe_text(changes: dict[str, Any]) -> str:
    """The fields of a run that differ from those that most runs share."""
    if "optimizer" not in changes:
        return ""
    rates = f"{changes['matrix_lr']:g} and " if changes["optimizer"] == "muon" else ""
    words = [f"{changes['optimizer']} {rates}{changes['lr']:g}", f"wd {changes['weight_decay']:g}"]
    words += [f"batch {changes['batch_size']}", f"{changes['schedule']}", f"smoothing {changes['label_smoothing']:g}"]
    words += [f"RandAugment {changes['randaugment']}/{changes.get('randaugment_magnitude', 12)}"] * bool(
        changes["randaugment"]
    )
    plain = (
        "mixup",
        "cutmix",
        "mix_probability",
        "erasing",
        "cutout",
        "ema_decay",
        "drop_path",
        "momentum",
        "crop_scale",
    )
    words += [f"{name.replace('_', ' ')} {changes[name]:g}" for name in plain if changes.get(name)]
    words += ["TrivialAugment"] * changes.get("trivialaugment", False)
    words += ["alternating flips"] * (changes.get("flip_mode") == "alternating")
    words += ["no crop"] * (changes["crop"] == "none") + [f"shift {changes['crop_padding']}"] * (
        changes["crop"] == "pad"
    )
    words += ["not clipped"] * (changes["clip_norm"] == 0)
    return ", ".join(words)


def _records(kind: str, name: str, file: str = "records.json") -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads((ROOT / "results" / kind / name / file).read_text(encoding="utf-8"))
    return records


def engine_facts() -> str:
    """Figures of the engine that are no comparison of speed."""
    facts = _records("cpu", "engine")
    rows = [f"| {fact['name']} | {fact['value']:.3g} {fact['unit']}".rstrip() + " |" for fact in facts]
    return "\n".join([f"| {facts[0]['device_name']}, PyTorch {facts[0]['torch']} | |", "| --- | --- |", *rows])


def _speed(record: dict[str, Any]) -> str:
    return f"{record['images_per_second']:.0f} ({record['ratio_to_plain']:.1f}×)"


def results() -> str:
    """The committed studies, GPU first: a table for each of what the first study published, and where the rest is."""
    files = [file for kind in ("gpu", "cpu") for file in sorted((ROOT / "results" / kind).glob("study*/records.json"))]
    parts = []
    for file in files:
        record = StudyRecord.from_dict(json.loads(file.read_text(encoding="utf-8")))
        told = {name: value for name, value in facts(record).items() if name in ("Data", "Machine", "Commit")}
        where = file.parent.relative_to(ROOT).as_posix()
        parts.append(f"{'; '.join(told.values())}; everything else in [{where}]({where}/report.md).")
        parts.append(markdown_table(summary(published_rows(record), "")))
    return "\n\n".join(parts) or "No study has been committed yet."


def published_rows(record: StudyRecord) -> list[tuple[ComparisonRow, str]]:
    """The rows of the experiments that the first study published, each once, and the winners of searches; insights."""
    rows: dict[tuple[str, ...], tuple[ComparisonRow, str]] = {}
    for experiment in record.experiments:
        if experiment.name in ("published", "hidden_dim", "classifier", "bottleneck"):
            base = next((row for row in experiment.rows if row.is_base), None)
            rows |= {row.runs: (row, of_row(row, base)) for row in experiment.rows if row.runs not in rows}
    winners = [search.winner for search in record.searches if search.winner]
    return [*rows.values(), *((winner, of_row(winner, None)) for winner in winners)]


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


MADE: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {
        "models": models_table,
        "results": results,
        "gpu": gpu_table,
        "track": track_table,
        "bench": bench_table,
        "tree": tree,
    },
    ROOT / "results" / "cpu" / "bench" / "README.md": {
        "records": partial(bench_records, "cpu"),
        "avx512": partial(bench_records, "cpu", "avx512.json"),
        "avx2": partial(bench_records, "cpu", "avx2.json"),
        "no-compiler": partial(bench_records, "cpu", "no-compiler.json"),
        "augmentation": partial(augmentation, "cpu", "augment.json"),
        "sweep": partial(sweep_table, "sweep.json"),
    },
    ROOT / "results" / "cpu" / "track" / "README.md": {"track": track_table},
    ROOT / "results" / "gpu" / "README.md": {
        "records": partial(bench_records, "gpu"),
        "augmentation": partial(augmentation, "gpu"),
        "search": partial(recipe_search, False),
        "small": partial(recipe_search, True),
    },
    ROOT / "docs" / "engine.md": {"facts": engine_facts},
    ROOT / "docs" / "LOG.md": {
        "effects-1": partial(effects, "effects-1"),
        "effects-2": partial(effects, "effects-2"),
        "effects-3": partial(effects, "effects-3"),
        "effects-4": partial(effects, "effects-4"),
    },
}
"""Documents with the parts that are made, each between two comments."""


def filled(document: Path) -> str:
    """A document's text with what stands between its comments made anew."""
    text = document.read_text(encoding="utf-8")
    for name, make in MADE[document].items():
        start, end = f"<!-- made: {name} -->\n", f"\n<!-- end: {name} -->"
        before, opened, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise SystemExit(f"{document}: the comments around {name!r} are missing, or have no line between them")
        text = before + start + make() + end + after
    return text


if __name__ == "__main__":
    draw(HERE)
    for document in MADE:
        document.write_text(filled(document), encoding="utf-8")
