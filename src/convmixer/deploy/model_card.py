"""The model card: what a run's records say of its model, for whoever finds it on a hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from convmixer.inference.model_file import ModelInfo
from convmixer.models import count_multiply_adds
from convmixer.models.pretrained import GENERIC, WEIGHTS
from convmixer.presets import run_config
from convmixer.runs import RunDir, Summary
from convmixer.utils.formatting import accuracy, count, number, percent, shown_command
from convmixer.utils.markdown import code, escaped
from convmixer.utils.metrics import Evaluation
from convmixer.version import __version__

_CLASSES = 100  # with a row each
_CITATION = """```bibtex
@article{trockman2022patches,
  title   = {Patches Are All You Need?},
  author  = {Trockman, Asher and Kolter, J. Zico},
  journal = {arXiv preprint arXiv:2201.09792},
  year    = {2022}
}
```"""


def model_card(run: RunDir, info: ModelInfo, architecture: str) -> str:
    """README.md with the hub's front matter; the licence of the weights is left to whoever publishes them.

    Args:
        run: finished.
        info: its model's description.
        architecture: as config.json calls it.
    """
    summary, evaluation = run.summary(), run.evaluation()
    sections = [
        f"# {escaped(info.origin.run)}",
        f"A ConvMixer ([Trockman and Kolter 2022](https://arxiv.org/abs/2201.09792)) that tells {len(info.classes)} "
        f"classes of {'grey' if info.channels == 1 else 'colour'} images apart, trained on "
        f"{escaped(info.origin.dataset)}.",
        "## Results",
        *_results(run, summary, evaluation),
        "## Use",
        *_use(info, architecture),
        "## Model",
        _list(_model(info, summary)),
        "## Data",
        _list(_data(run, info)),
        "## Training",
        _list(_training(run, summary)),
        *_settings(run),
        "## Intended use",
        f"Classifying images like those of {escaped(info.origin.dataset)} into exactly these classes. Every image gets "
        "one of them, also one that shows something else, and probabilities are those of the training data's mixture "
        "of classes. Accuracy on other images is unknown until it is measured: `convmixer evaluate RUN --dataset "
        "folder:PICTURES`.",
        "## Licence",
        "Not chosen. Whoever publishes these weights states their licence here and as `license` in the front matter, "
        "with regard to that of the training images.",
        "## Citation",
        _CITATION,
        f"Made by convmixer-lab {__version__} from the run's records.",
    ]
    return f"---\n{yaml.safe_dump(_front_matter(info, summary), sort_keys=False, allow_unicode=True)}---\n\n" + (
        "\n\n".join(part for part in sections if part) + "\n"
    )


def _front_matter(info: ModelInfo, summary: Summary | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "convmixer"],
        "metrics": ["accuracy"],
    }
    if summary is not None and summary.test_accuracy is not None:
        name = info.origin.dataset
        measured = [{"type": "accuracy", "name": "Test accuracy", "value": round(summary.test_accuracy, 4)}]
        task = {"type": "image-classification", "name": "Image classification"}
        result = {"task": task, "dataset": {"name": name, "type": name, "split": "test"}, "metrics": measured}
        values["model-index"] = [{"name": info.origin.run, "results": [result]}]
    return values


def _results(run: RunDir, summary: Summary | None, evaluation: Evaluation | None) -> Iterator[str]:
    sizes = run.dataset().sizes
    if summary is not None:
        seed = f"One run with seed {summary.seed}: intervals cover the choice of images, not that of the seed."
        yield _table(
            ("", "accuracy, 95 % interval (Wilson)", "images"),
            [
                ("test", accuracy(summary.test_accuracy, sizes.get("test")), count(sizes.get("test"))),
                ("validation", accuracy(summary.val_accuracy, sizes.get("val")), count(sizes.get("val"))),
            ],
        )
        if summary.protocol == "original":
            seed += " The epoch was chosen on the test images, which makes their accuracy optimistic."
        yield seed
        if summary.test_accuracy_tta is not None:
            yield f"Test accuracy with test-time augmentation: {percent(summary.test_accuracy_tta)}."
    if evaluation is not None:
        yield (
            f"Balanced test accuracy {percent(evaluation.balanced_accuracy)}, that of a constant answer "
            f"{percent(evaluation.majority_baseline)}; expected calibration error "
            f"{percent(evaluation.expected_calibration_error)}."
        )
        if len(evaluation.per_class) <= _CLASSES:
            rows = [
                (c.name, count(c.images), percent(c.recall, 1), percent(c.precision, 1)) for c in evaluation.per_class
            ]
            yield _table(("class", "test images", "recall", "precision"), rows)


def _use(info: ModelInfo, architecture: str) -> Iterator[str]:
    yield (
        "With convmixer-lab, from this folder; pixels go in as they are:\n\n"
        f"```bash\nconvmixer predict {WEIGHTS} picture.jpg\n```\n\n"
        "```python\nfrom convmixer import ConvMixer\n\n"
        'model = ConvMixer.from_pretrained("FOLDER or OWNER/REPOSITORY")  # normalised images in, logits out\n```'
    )
    before = (
        "import timm" if architecture != GENERIC else "import convmixer\nimport timm\n\nconvmixer.register_with_timm()"
    )
    yield (
        f"With timm:\n\n```python\n{before}\n"
        'model = timm.create_model("local-dir:FOLDER", pretrained=True)  # or "hf-hub:OWNER/REPOSITORY"\n```'
    )
    yield (
        f"Images of another size are scaled until the shorter side has {info.image_size} pixels (bicubic) and cut to "
        f"the square in the centre, then scaled to [0, 1], less the mean {number(list(info.mean))}, divided by "
        f"{number(list(info.std))}."
    )


def _model(info: ModelInfo, summary: Summary | None) -> dict[str, str]:
    network, classes = info.architecture, len(info.classes)
    adds = count_multiply_adds(network, info.image_size, classes, info.channels)
    return {
        "Architecture": f"dim {network.dim}, depth {network.depth}, kernels {number(network.kernel_size)}, patches "
        f"{network.patch_size}, head {network.head}, branch {network.branch}, {network.activation}",
        "Input": f"{info.channels}×{info.image_size}×{info.image_size}",
        "Parameters": count(summary.parameters if summary else None),
        "Multiply-adds": f"{adds / 1e6:,.1f} M for an image",
        "SHA-256 of the run's weights": info.origin.weights_sha256,
    }


def _data(run: RunDir, info: ModelInfo) -> dict[str, str]:
    config, sizes = run.config(), run.dataset().sizes
    found = {
        "Data set": info.origin.dataset,
        "Images": ", ".join(f"{count(n)} {part}" for part, n in sizes.items()),
        "Fingerprint (SHA-256 of pixels, labels and names)": info.origin.fingerprint,
        "Seed of the split": str(config.data.split_seed),
    }
    if len(info.classes) <= _CLASSES:
        found["Classes"] = ", ".join(info.classes)
    return found


def _training(run: RunDir, summary: Summary | None) -> dict[str, str]:
    config, environment = run.config(), run.environment()
    command = environment.get("command")
    selected = "of the best validation accuracy" if config.protocol == "validation" else "of the best test accuracy"
    found = {
        "Recipe": f"{config.recipe}, {config.train.epochs} epochs, seed {config.seed}",
        "Epoch kept": f"{summary.selected_epoch}, that {selected}" if summary else "",
        "Started from": (summary.initial_weights if summary else None) or "random weights",
        "Command": code(shown_command(command) or "") if isinstance(command, list) else "",
        "Machine": str(environment.get("device") or ""),
        "Versions": f"convmixer-lab {environment.get('convmixer')}, PyTorch {environment.get('torch')}",
        "Commit": str(environment.get("commit") or ""),
        "Run": config.identity_hash(),
    }
    return {name: value for name, value in found.items() if value}


def _settings(run: RunDir) -> Iterator[str]:
    """The settings that differ from those of the model's and the recipe's names."""
    config = run.config()
    own, usual = config.identity(), run_config(config.model, config.recipe).identity()
    rows = [(name, number(value), number(usual.get(name))) for name, value in own.items() if usual.get(name) != value]
    rows = [row for row in rows if row[0] not in ("model", "recipe", "seed", "dataset")]
    if rows:
        yield _table(("setting", "value", f"{config.model}, {config.recipe}"), rows)


def _list(values: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value if name == 'Command' else escaped(value)}" for name, value in values.items())


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
