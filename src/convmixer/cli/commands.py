"""The commands by name: what each is for, examples, and the options that its help shows first."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from convmixer.errors import InputError, nearest


@dataclass(frozen=True)
class Command:
    """A command of the program."""

    place: str
    """Module of this package, and the class in it: a dataclass with a method ``execute``."""
    summary: str
    when: str
    """When to use it: a sentence of docs/commands.md."""
    examples: tuple[str, ...]
    common: tuple[str, ...] = ()
    """Options that help shows first; empty if there are few of them."""
    less_memory: str = "close other programs, or take a machine with more"
    """What to do where memory is short."""

    def load(self) -> Any:
        """The class."""
        module, name = self.place.split(":")
        return getattr(importlib.import_module(f"convmixer.cli.{module}"), name)


_LESS = (
    "choose a smaller --batch-size, or have parts of a batch go through the model one after the other with "
    "--accumulate; --dim, --depth and --image-size count as well"
)
_RUN = ("dataset", "model", "recipe", "epochs", "batch-size", "lr", "weight-decay", "seed", "out", "device", "json")

COMMANDS: dict[str, Command] = {
    "train": Command(
        "train:Train",
        "train a model and leave a run directory",
        (
            "To train one network, from scratch or from trained weights (`--init-from`); to continue a run "
            "(`--resume`), to repeat one "
            "(`--config RUN`), or to see what one would cost (`--dry-run`)."
        ),
        (
            "train --dataset digits --recipe strong-short --dim 64 --depth 4",
            "train --dataset folder:pictures --recipe strong-short --out my-run",
            "train --out my-run --resume",
            "train --dataset digits --config my-run --seed 1 --dry-run",
            "train --dataset folder:pictures --init-from my-run --recipe finetune",
        ),
        (*_RUN, "init-from", "config", "resume", "dry-run"),
        less_memory=_LESS,
    ),
    "evaluate": Command(
        "use:Evaluate",
        "accuracy, calibration, classes and mistakes of a run or an exported file",
        "When a run has finished (or was interrupted: its best epoch so far), on its own test set or on other images "
        "of its classes; and to see that an exported file is as good.",
        (
            "evaluate my-run",
            "evaluate my-run --dataset folder:other-pictures",
            "evaluate model.onnx --data my-run",
        ),
        less_memory="choose a smaller --batch-size",
    ),
    "predict": Command(
        "use:Predict",
        "classes of images by a run's weights or an exported file",
        "For images without labels: files, folders, or stdin.",
        ("predict my-run cat.jpg holiday/", "predict my-run - --json < cat.jpg", "predict model.onnx cat.jpg"),
    ),
    "export": Command(
        "deploy:Export",
        "a run's model as a file that runs elsewhere, checked against the run",
        "When a finished run is to be used without this package: in ONNX Runtime, OpenVINO, a browser, plain PyTorch.",
        ("export my-run", "export my-run --format openvino --out model.xml", "export my-run --format hub --out folder"),
    ),
    "compress": Command(
        "deploy:Compress",
        "a smaller model of a run (int8, pruning), and whether it is worth it here",
        "When an exported model is too large or too slow: the answer is measured on this machine.",
        (
            "compress my-run --quantize int8",
            "compress my-run --prune channels --ratio 0.3 --finetune 5",
        ),
        ("quantize", "backend", "prune", "ratio", "finetune", "out", "json"),
    ),
    "runs": Command(
        "runs:Runs",
        "list the runs below a directory, sorted and filtered",
        "To find a run again, or the best of many.",
        ("runs", "runs results --sort test --dataset digits"),
    ),
    "compare": Command(
        "runs:Compare",
        "settings, curves and a paired test of several runs",
        "When two or more runs differ and you ask in what, and whether it could be chance.",
        ("compare runs/a runs/b", "compare runs/a runs/b --plot curves.png"),
    ),
    "report": Command(
        "study:Report",
        "a page, pictures and tables of a run, a search or a study",
        "To look at results, print them, or hand them on: one file that needs no network.",
        ("report my-run", "report results --out all.html"),
    ),
    "grid-search": Command(
        "search:GridSearch",
        "search settings, then train the winner over seeds",
        "When you do not know good settings for your data.",
        (
            "grid-search --dataset digits --epochs 3 --values lr=0.003,0.01",
            "grid-search --dataset digits --values optimizer=adamw,muon",
            "grid-search --sampler tpe --trials 20 --values lr=0.001..0.1:log",
        ),
        ("values", "search-space", "sampler", "trials", "workers", *_RUN),
    ),
    "experiment": Command(
        "study:Experiment",
        "experiments of the study: tables of variants over seeds",
        "To repeat the study, or to compare variants of the network over seeds on your data.",
        ("experiment classifier --profile smoke --dataset digits",),
    ),
    "data": Command(
        "data:Data",
        "what is in a data set, and what endangers results on it",
        "Before the first training on your own pictures.",
        ("data digits", "data folder:pictures --sheet samples.png"),
        ("data-dir", "source", "image-size", "sheet", "recipe", "json"),
    ),
    "verify": Command(
        "verify:Verify",
        "whether the files of runs, searches and studies are as they were written",
        "Before you rely on results that were copied, moved, or kept for long.",
        ("verify my-run", "verify results", "verify my-run --accept"),
    ),
    "models": Command("tools:Models", "the models, with what each is for", "To choose `--model`.", ("models",)),
    "recipes": Command(
        "tools:Recipes",
        "the recipes, and the settings of one",
        "To choose `--recipe`, or to see what one sets.",
        ("recipes", "recipes strong"),
    ),
    "bench": Command(
        "bench:Bench",
        "speed of the engines, and of trained models and files, on this machine",
        "To learn how fast a model trains here and what the fast engine gains; and with --files which of several runs "
        "and exported files to use: accuracy, size, memory and speed side by side.",
        (
            "bench",
            "bench --models convmixer",
            "bench --files my-run my-run/my-run.onnx --plot trade-off.svg",
        ),
    ),
}


def command_named(name: str) -> Command:
    """The command. Raises InputError, with the nearest name, if there is none."""
    if name not in COMMANDS:
        raise InputError(f"there is no command {name!r}; {nearest(name, COMMANDS)}")
    return COMMANDS[name]
