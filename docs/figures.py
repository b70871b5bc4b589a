"""Draws the documentation's picture and fills in its tables from committed records: ``python docs/figures.py``."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

from convmixer.cli.commands import COMMANDS
from convmixer.config import per_block_text
from convmixer.models import describe_models
from convmixer.report.records import StudyRecord
from convmixer.utils.architecture import architecture
from convmixer.utils.comparisons import mean_interval, paired_difference
from convmixer.utils.formatting import plural
from convmixer.utils.visualization import save_figure

HERE = Path(__file__).parent
ROOT = HERE.parent


def draw(folder: Path) -> None:
    """Writes every picture into ``folder``."""
    figure = architecture(dim=256, depth=8, kernel_size=9, patch_size=2, n_classes=10, image_size=32)
    save_figure(figure, folder / "architecture.svg")


def models_table() -> str:
    """The models as Markdown rows."""
    lines = [
        "| model | head | branch | h/d | kernel | patch | input | parameters | multiply-adds |",
        "| --- " * 9 + "|",
    ]
    for row in describe_models():
        side = row.image_size
        lines.append(
            f"| `{row.model}` | {row.head} | {row.branch} | {row.dim}/{row.depth} | {per_block_text(row.kernel_size)} "
            f"| {row.patch_size} "
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


def finetune_table() -> str:
    """Few pictures, from random and from trained weights: test accuracy by seed, and differences to the first row."""
    runs: dict[str, dict[int, float]] = {}
    for record in _records("cpu", "finetune"):
        if record["setting"] != "backbone":
            runs.setdefault(record["setting"], {})[record["seed"]] = 100 * record["test_accuracy"]
    base = next(iter(runs.values()))
    lines = ["| start | test, by seed | mean, 95 % | minus the first row, 95 % |", "| --- " * 4 + "|"]
    for name, values in runs.items():
        each = ", ".join(f"{value:.1f}" for value in values.values())
        mean, difference = mean_interval(values.values()), paired_difference(values, base)
        assert difference is not None
        told = "" if values is base else f"{difference.mean:+.1f} ± {difference.half_width:.1f} points"
        lines.append(f"| {name} | {each} | {mean.mean:.1f} ± {mean.half_width:.1f} % | {told} |")
    return "\n".join(lines)


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


def claims() -> str:
    """The numbers of the README's first screen, with their conditions."""
    cpu, cpu_stock = _over_stock("cpu", "fast", "ratio_to_plain")
    gpu, gpu_stock = _over_stock("gpu", "fast+graph+bf16", "ratio_to_plain_fp16")
    runs = [r for r in _records("cpu", "track") if r["recipe"] == "strong-short"]
    accuracy = mean_interval([100 * r["test_accuracy"] for r in runs])
    minutes = sorted(r["training_seconds"] / 60 for r in runs)
    lines = [
        f"- **Training on a CPU: {cpu} the plain PyTorch model and {cpu_stock} the best stock setting.**",
        "  ConvMixer-256/8, float32, batch 128, two cores of an AMD EPYC; [all settings](results/cpu/bench/README.md).",
        f"- **Training on a GPU: {gpu} the plain model in float16 and {gpu_stock} the best stock setting.**",
        "  The same networks in bfloat16, batch 512, one NVIDIA H200; [all settings](results/gpu/README.md).",
        f"- **Inference on a CPU: {_over_rival('openvino')} OpenVINO and {_over_rival('onnxruntime')} ONNX Runtime.**",
        "  The same networks, float32, batch 1 and 128, two Xeon cores; [records](results/cpu/bench/README.md).",
        f"- **CIFAR-10: {accuracy.mean:.1f} ± {accuracy.half_width:.1f} % after {minutes[0]:.1f} to {minutes[-1]:.1f} "
        "minutes of training on the two EPYC cores.** Mean",
        f"  and 95 % confidence interval over {accuracy.n} seeds; dim 128, depth 4, patch 4, 10 epochs in bfloat16,",
        "  a JPEG copy of the images; [records](results/cpu/track/README.md).",
    ]
    return "\n".join(lines)


def _over_rival(name: str) -> str:
    """The native plan beside another runtime, in inference."""
    speeds = [{key: r["images_per_second"] for key, r in found.items()} for found in _rivals().values()]
    return _range([found["native"] / found[name] for found in speeds])


def _rivals() -> dict[tuple[str, int, int], dict[str, dict[str, Any]]]:
    """Records of inference by model, batch size and threads, and by setting."""
    groups: dict[tuple[str, int, int], dict[str, dict[str, Any]]] = {}
    for record in _records("cpu", "bench", "rivals.json"):
        key = record["model"], record["batch_size"], record["threads"]
        groups.setdefault(key, {})[record["setting"]] = record
    return groups


def _over_stock(kind: str, name: str, field: str) -> tuple[str, str]:
    """A training setting beside plain (``field`` of its records), and beside the best setting without our engine.

    A float32 setting is compared with float32 ones.
    """
    records = [r for r in _records(kind, "bench") if r["what"] == "train"]
    ours = [r for r in records if r["setting"] == name]
    stock = [r for r in records if r["engine"] == "plain" and ("16" in name or "16" not in r["setting"])]
    best = {
        r["kernel_size"]: max(o["images_per_second"] for o in stock if o["kernel_size"] == r["kernel_size"])
        for r in ours
    }
    return _range([r[field] for r in ours]), _range([r["images_per_second"] / best[r["kernel_size"]] for r in ours])


def _range(ratios: list[float]) -> str:
    return f"{min(ratios):.1f}–{max(ratios):.1f}×"


_STUDY = {
    "twice the width": ("hidden_dim", "dim 128"),
    "RH: a deeper head": ("classifier", "ConvMixerRH"),
    "BN: bottleneck branches, factor 2": ("bottleneck", "factor 2"),
}
"""The README's rows of the study: experiment and label."""


def study() -> str:
    """Differences of test accuracy in the committed study, beside those that the first study published."""
    file = ROOT / "results" / "cpu" / "study" / "records.json"
    record = StudyRecord.from_dict(json.loads(file.read_text(encoding="utf-8")))
    rows = {(experiment.name, row.label): row for experiment in record.experiments for row in experiment.rows}
    lines = ["| change | here: dim 64, depth 4 | first study: dim 256, depth 8 |", "| --- | --- | --- |"]
    for change, key in _STUDY.items():
        difference = rows[key].difference
        assert difference is not None
        assert difference.half_width is not None
        assert difference.published is not None
        ours = f"{100 * difference.mean:+.2f} ± {100 * difference.half_width:.2f} points, {difference.n} seeds"
        lines.append(f"| {change} | {ours} | {100 * difference.published:+.2f} points, one run each |")
    return "\n".join(lines)


def rooms() -> str:
    """The parts of the package from top to bottom, and what each is for: the first sentence of its docstring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    lines = ["| level | part | what it is for |", "| --- | --- | --- |"]
    for level, layer in enumerate(reversed(layers)):
        for name in layer.split(" | "):
            path = ROOT.joinpath("src", *name.split("."))
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            lines.insert(2, f"| {level} | `{name.removeprefix('convmixer.')}` | {_purpose(file)} |")
    return "\n".join(lines)


def _purpose(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = re.split(r"(?<=\.) ", " ".join(docstring.split("\n\n")[0].split()))[0]
    return first.rstrip(".").replace("``", "")


def export_table() -> str:
    """How far exported files' logits are from their networks', the worst of all heads and branches."""
    lines = [
        "| network | files | same class | largest difference of logits: ONNX Runtime | OpenVINO |",
        "| --- " * 5 + "|",
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in _records("cpu", "export"):
        groups.setdefault(record["model"], []).append(record)
    for model, records in groups.items():
        worst = {kind: max(r["largest_difference"] for r in records if r["format"] == kind) for kind in _FORMATS}
        same, images = sum(r["same_answers"] for r in records), sum(r["images"] for r in records)
        cells = " | ".join(f"{worst[kind]:.1e}" for kind in _FORMATS)
        lines.append(f"| `{model}` | {len(records)} | {same} of {images} | {cells} |")
    return "\n".join(lines)


_FORMATS = ("onnx", "openvino")


def rivals_table() -> str:
    """Inference beside other runtimes: images per second, what the native plan has of each one's, and latency."""
    names = ("native", "fast", "openvino", "onnxruntime", "plain")
    lines = [f"| img/s, float32 (native ÷ it), latency p50 / p99 in ms | {' | '.join(names)} |"]
    lines.append("| --- " * (len(names) + 1) + "|")
    for (model, batch, threads), found in _rivals().items():
        cells = []
        for name in names:
            speed, record = found[name]["images_per_second"], found[name]
            ratio = "" if name == "native" else f" ({found['native']['images_per_second'] / speed:.2f})"
            latency = f", {1e3 * record['latency_p50']:.2f} / {1e3 * record['latency_p99']:.2f}" if batch == 1 else ""
            cells.append(f"{speed:.0f}{ratio}{latency}")
        lines.append(f"| `{model}`, batch {batch}, {plural(threads, 'thread')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plan_sweep() -> str:
    """Of each number of images, how much faster a model is in one native call than operation by operation."""
    found = json.loads((ROOT / "results" / "cpu" / "bench" / "plan_sweep.json").read_text(encoding="utf-8"))
    lines = ["| images | sizes | operations ÷ native call: least | median | most |", "| --- " * 5 + "|"]
    for batch in sorted({row["batch_size"] for row in found["rows"]}):
        ratios = [row["ratio"] for row in found["rows"] if row["batch_size"] == batch]
        cells = " | ".join(f"{figure:.2f}" for figure in (min(ratios), median(ratios), max(ratios)))
        lines.append(f"| {batch} | {len(ratios)} | {cells} |")
    return "\n".join(lines)


def compression_table() -> str:
    """What compression made of a network: accuracy on the test images beside the run's own, size and speed."""
    lines = [
        "| file | runtime | test | minus the run, 95 % | size | mult-adds | one image, one thread | img/s |",
        "| --- " * 8 + "|",
    ]
    for r in (record for record in _records("cpu", "compression") if record["what"] == "file"):
        size, first = r["bytes"] / 1e3, r["file"] == r["model"]
        difference = "" if first else f"{100 * r['difference']:+.2f} ± {100 * r['difference_half_width']:.2f}"
        lines.append(
            f"| `{r['file']}` | {r['runtime']} | {100 * r['accuracy']:.2f} % | {difference} | {size:.0f} kB | "
            f"{r['multiply_adds'] / 1e6:.1f} M | {1e3 * r['latency_p50']:.2f} ms | {r['images_per_second']:,.0f} |"
        )
    return "\n".join(lines)


def students_table() -> str:
    """A small network with and without a teacher: test accuracy by seed, and the difference of runs of one seed."""
    runs: dict[bool, dict[int, float]] = {False: {}, True: {}}
    for record in _records("cpu", "compression"):
        if record["what"] == "student":
            runs[record["taught"]][record["seed"]] = 100 * record["test_accuracy"]
    difference = paired_difference(runs[True], runs[False])
    assert difference is not None
    lines = ["| trained on | test, by seed | mean, 95 % |", "| --- " * 3 + "|"]
    for taught, name in ((False, "labels"), (True, "labels and the teacher's answers")):
        mean = mean_interval(runs[taught].values())
        each = ", ".join(f"{value:.2f}" for _, value in sorted(runs[taught].items()))
        lines.append(f"| {name} | {each} | {mean.mean:.2f} ± {mean.half_width:.2f} % |")
    told = f"{difference.mean:+.2f} ± {difference.half_width:.2f} points, {difference.n} seeds"
    return "\n".join([*lines, "", f"With the teacher minus without, runs of the same seed: {told} (95 %)."])


def commands() -> str:
    """A section for each command: when to use it, examples, the options used most."""
    sections = []
    for name, command in COMMANDS.items():
        examples = "\n".join(f"convmixer {example}" for example in command.examples)
        common = ", ".join(f"`--{option}`" for option in command.common)
        options = f"\n\nOptions used most: {common}." if common else ""
        summary = command.summary[0].upper() + command.summary[1:]
        sections.append(f"## convmixer {name}\n\n{summary}. {command.when}\n\n```bash\n{examples}\n```{options}")
    return "\n\n".join(sections)


MADE: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"claims": claims, "study": study},
    ROOT / "docs" / "commands.md": {"commands": commands},
    ROOT / "docs" / "architecture.md": {"rooms": rooms},
    ROOT / "docs" / "finetuning.md": {"finetune": finetune_table},
    ROOT / "docs" / "models.md": {"models": models_table},
    ROOT / "results" / "cpu" / "bench" / "README.md": {
        "records": partial(bench_records, "cpu"),
        "avx512": partial(bench_records, "cpu", "avx512.json"),
        "avx2": partial(bench_records, "cpu", "avx2.json"),
        "no-compiler": partial(bench_records, "cpu", "no-compiler.json"),
        "augmentation": partial(augmentation, "cpu", "augment.json"),
        "sweep": partial(sweep_table, "sweep.json"),
        "rivals": rivals_table,
        "plan sweep": plan_sweep,
    },
    ROOT / "results" / "cpu" / "compression" / "README.md": {
        "compression": compression_table,
        "students": students_table,
    },
    ROOT / "results" / "cpu" / "export" / "README.md": {"export": export_table},
    ROOT / "results" / "cpu" / "track" / "README.md": {"track": track_table},
    ROOT / "results" / "cpu" / "finetune" / "README.md": {"finetune": finetune_table},
    ROOT / "results" / "gpu" / "README.md": {
        "records": partial(bench_records, "gpu"),
        "augmentation": partial(augmentation, "gpu"),
        "search": partial(recipe_search, False),
        "small": partial(recipe_search, True),
    },
    ROOT / "docs" / "engine.md": {"bench": bench_table, "facts": engine_facts},
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
