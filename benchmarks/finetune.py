"""Few pictures, with and without trained weights: ``python benchmarks/finetune.py --data CIFAR10-FOLDER``.

A backbone is trained on six classes of CIFAR-10. Then, for each seed, 50 training pictures of each of the other four
classes are drawn, and networks of the same size are trained on these 200 from random weights and from the backbone's.
All are tested on the 4,000 test images of the four classes. A run that is there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
from pathlib import Path
from typing import Any

from compact import merge

import convmixer
from convmixer.runs import RunDir

CLASSES = {
    "backbone": ("airplane", "bird", "deer", "dog", "frog", "ship"),
    "pictures": ("automobile", "cat", "horse", "truck"),
}
PICTURES = 50
SIZES: dict[str, Any] = {"dim": 128, "depth": 4, "kernel_size": 5, "patch_size": 4}
COMMON: dict[str, Any] = {"precision": "bfloat16", "engine": "fast"}
WAYS: dict[str, dict[str, Any]] = {
    "from scratch, 20 epochs": {**SIZES, "recipe": "strong-short", "epochs": 20},
    "from scratch, 100 epochs": {**SIZES, "recipe": "strong-short", "epochs": 100},
    "from the backbone, head only": {"recipe": "finetune", "freeze": "features"},
    "from the backbone": {"recipe": "finetune"},
}
"""What is compared: fields of a run's configuration."""


def link_classes(data: Path, folder: Path, names: tuple[str, ...], *, seed: int | None = None) -> Path:
    """A folder data set of links to some classes of another: all training images, or 50 a class drawn by ``seed``."""
    for name in names:
        for part in ("train", "test"):
            images = sorted((data / part / name).iterdir())
            if part == "train" and seed is not None:
                images = random.Random(f"{seed} {name}").sample(images, PICTURES)
            target = folder / part / name
            target.mkdir(parents=True, exist_ok=True)
            for image in images:
                if not (target / image.name).is_symlink():
                    (target / image.name).symlink_to(image.resolve())
    return folder


def run(out: Path, fields: dict[str, Any]) -> convmixer.runs.Summary:
    """The summary of a run, which is trained or continued unless it has ended."""
    config = {**COMMON, **fields}
    if not (out / "summary.json").exists():
        return convmixer.train(config, out, resume=(out / "config.json").exists(), artifacts=False)
    summary = RunDir.existing(out).summary()
    assert summary is not None
    return summary


def main() -> None:
    """Trains what is missing and writes a record of each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as a folder: train/CLASS, test/CLASS")
    parser.add_argument("--work", type=Path, default=Path("results/runs/finetune"), help="where runs are kept")
    parser.add_argument("--out", type=Path, default=Path("results/cpu/finetune/records.json"))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    many = link_classes(args.data, args.work / "six-classes", CLASSES["backbone"])
    backbone = args.work / "backbone"
    ways = {"backbone": {**SIZES, "recipe": "strong-short", "dataset": f"folder:{many}"}}
    plans = [("backbone", 0, backbone, ways["backbone"])]
    for seed in range(args.seeds):
        few = link_classes(args.data, args.work / f"pictures-{seed}", CLASSES["pictures"], seed=seed)
        for way, fields in WAYS.items():
            start = {"init_from": str(backbone)} if fields["recipe"] == "finetune" else {}
            out = args.work / f"{way.replace(', ', '-').replace(' ', '-')}-{seed}"
            plans.append((way, seed, out, {**fields, **start, "dataset": f"folder:{few}"}))
    for way, seed, out, fields in plans:
        summary = run(out, {**fields, "seed": seed})
        record = {
            "setting": way,
            "run": f"{way}, seed {seed}",
            "seed": seed,
            "commit": commit.strip(),
            **{
                name: getattr(summary, name)
                for name in ("epochs", "parameters", "val_accuracy", "test_accuracy", "epoch_seconds", "status")
            },
        }
        merge(args.out, [record])
        print(json.dumps(record))


if __name__ == "__main__":
    main()
