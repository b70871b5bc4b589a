"""The command that looks at a data set: convmixer data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from convmixer.cli.output import ERRORS, check_figure_file, print_json, print_table, save_picture
from convmixer.config import AugmentConfig, DataConfig
from convmixer.config.fields import BadImages
from convmixer.presets import run_config
from convmixer.runtime.terminal import Terminal

if TYPE_CHECKING:
    from convmixer.data import Dataset
    from convmixer.data.duplicates import Duplicates
    from convmixer.data.inspection import Inspection
    from convmixer.data.originals import Originals

_CLASSES_SHOWN = 30


@dataclass(frozen=True)
class Data:
    """Find, download and verify a data set; say what is in it and what endangers results on it."""

    dataset: tyro.conf.Positional[str] = "digits"
    """Name of a data set, such as digits or cifar10, or folder:PATH."""
    data_dir: str = "data"
    """Where archives are looked for and placed."""
    source: str | None = None
    """Where to download from instead of the known hosts: a URL, or hub (Hugging Face)."""
    image_size: int | None = None
    """Side in pixels that the images of a folder are resized and cropped to."""
    val_fraction: float = 0.1
    """Fraction of the training images held out for validation."""
    test_fraction: float = 0.2
    """Fraction of a folder without a test split that becomes one."""
    split_seed: int = 0
    """Seed of these splits."""
    bad_images: BadImages = "fail"
    """What to do if files of a folder cannot be read as images: fail, or skip them and say which."""
    sheet: Path | None = None
    """File, .png or .svg, for a picture of samples of every class, beside the same ones as training sees them."""
    recipe: str = "baseline"
    """Recipe whose augmentation the sheet shows; the augmentation's own flags override it."""
    augment: tyro.conf.OmitArgPrefixes[AugmentConfig] = field(default_factory=lambda: run_config().augment)
    seed: int = 0
    """Seed of the sheet's augmentation."""
    json: bool = False
    """Print everything as JSON."""

    @classmethod
    def defaults(cls, arguments: Sequence[str]) -> Data:
        """What the flag that chooses defaults says: --recipe. Raises InputError if there is no such recipe."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        parser.add_argument("--recipe", default="baseline")
        try:
            chosen, _ = parser.parse_known_args(arguments)
        except argparse.ArgumentError:
            return cls()  # a flag without its value: the real parser says so
        return cls(recipe=chosen.recipe, augment=run_config(recipe=chosen.recipe).augment)

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.data import load_dataset
        from convmixer.data.duplicates import near_duplicates
        from convmixer.data.inspection import inspect

        check_figure_file("--sheet", self.sheet)
        config = DataConfig(
            dataset=self.dataset,
            data_dir=self.data_dir,
            source=self.source,
            image_size=self.image_size,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            split_seed=self.split_seed,
            bad_images=self.bad_images,
        )
        dataset = load_dataset(config, console=ERRORS)
        with ERRORS.status("looking for duplicates"):
            inspection = inspect(dataset)
            near = near_duplicates(dataset)
        originals = _originals(config, dataset)
        if self.json:
            found = inspection.to_dict() | {
                "near_duplicates": None if near is None else near.to_dict(),
                "originals": None if originals is None else originals.to_dict(),
            }
            print_json(dataset.info.to_dict() | {"inspection": found})
        else:
            _print_counts(dataset, inspection)
            _print_findings(dataset, inspection, near, originals)
        if self.sheet is not None:
            self._draw(dataset, self.sheet)
            ERRORS.print(f"Written: {self.sheet}")
        return 0

    def _draw(self, dataset: Dataset, path: Path) -> None:
        import torch

        from convmixer.data.samples import augmented, class_samples
        from convmixer.utils.image_sheets import ClassSamples, sample_sheet, samples_per_class

        info, train = dataset.info, dataset.splits["train"]
        chosen = class_samples(train, len(info.classes), samples_per_class(len(info.classes)))
        index = torch.tensor([number for members in chosen for number in members])
        changed = iter(augmented(dataset, index, self.augment, self.seed).numpy())
        rows = [
            ClassSamples(name, list(train.images[members].numpy()), [next(changed) for _ in members])
            for name, members in zip(info.classes, chosen, strict=True)
        ]
        title = f"{info.name}: {len(train)} training images, {len(info.classes)} classes"
        plain = self.augment == run_config(recipe=self.recipe).augment
        save_picture(sample_sheet(rows, title, f"--recipe {self.recipe}{'' if plain else ' and other flags'}"), path)


def _originals(config: DataConfig, dataset: Dataset) -> Originals | None:
    from convmixer.data.originals import describe_originals

    root = Path(config.dataset.partition(":")[2]).expanduser()
    paths = [root / name for split in dataset.splits.values() for name in split.names]
    if not paths:
        return None
    with ERRORS.status("reading the headers of the files"):
        return describe_originals(paths, dataset.info.image_size)


def _print_counts(dataset: Dataset, inspection: Inspection) -> None:
    columns = list(inspection.counts.values())
    lines: list[tuple[str, Sequence[int]]] = list(zip(dataset.info.classes, zip(*columns, strict=True), strict=True))
    if (more := len(lines) - _CLASSES_SHOWN) > 0:
        lines[_CLASSES_SHOWN:] = [(f"… {more} more", [sum(column[_CLASSES_SHOWN:]) for column in columns])]
    lines.append(("all classes", [sum(column) for column in columns]))
    headers = ["class", *(f"{name} images" for name in inspection.counts)]
    print_table(headers, [[name, *(f"{number:,}" for number in numbers)] for name, numbers in lines])


def _print_findings(
    dataset: Dataset, inspection: Inspection, near: Duplicates | None, originals: Originals | None
) -> None:
    out, info, imbalance = Terminal(soft_wrap=True), dataset.info, inspection.imbalance
    out.print(f"{info.channels}×{info.image_size}×{info.image_size}, {len(info.classes)} classes, {info.fingerprint}")
    if imbalance.ratio == 1:
        out.print(f"balance: all classes are of one size; a constant answer scores {imbalance.majority_baseline:.1%}")
    else:
        out.print(
            f"balance: {imbalance.largest!r} has {imbalance.ratio:.3g} times as many training images as "
            f"{imbalance.smallest!r}; always answering {imbalance.largest!r} scores {imbalance.majority_baseline:.1%}"
        )
    for found in (inspection.duplicates, near):
        if found is not None:
            _print_duplicates(out, found)
    if originals is not None:
        _print_originals(out, originals)


def _print_duplicates(out: Terminal, found: Duplicates) -> None:
    kind = {"exact": "equal images (same pixels)", "near": "similar images (by dHash)"}
    if not found.groups:
        out.print(f"{kind[found.kind]}: none")
        return
    across = ", ".join(f"{number} of {pair}" for pair, number in found.across.items() if number) or "none across parts"
    groups = f"{found.groups} group{'s' if found.groups > 1 else ''}"
    out.print(f"{kind[found.kind]}: {found.images:,} in {groups}; {across}")
    sign = {"exact": " = ", "near": " ≈ "}[found.kind]
    for group in found.examples[:3]:
        out.print("  " + sign.join(f"{m.split}: {m.name or f'image {m.index}'} ({m.label})" for m in group))


def _print_originals(out: Terminal, originals: Originals) -> None:
    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{number:,} {name}" for name, number in counts.items())

    some = "" if originals.examined == originals.files else f" (of {originals.files:,}; evenly spaced)"
    more = originals.distinct_sizes - len(originals.common_sizes)
    out.print(f"files: {originals.examined:,}{some}: {listed(originals.formats)}; modes {listed(originals.modes)}")
    out.print(f"sizes: {listed(originals.common_sizes)}{f', {more:,} other sizes' if more > 0 else ''}")
    if originals.distinct_sizes > 1:
        for name, values in (("width", originals.width), ("height", originals.height), ("aspect", originals.aspect)):
            out.print(f"{name}: {values.smallest:.4g} to {values.largest:.4g}, median {values.median:.4g}")
    if originals.enlarged:
        out.print(f"enlarged: {originals.enlarged:,} files have fewer pixels than --image-size asks for")
    if originals.cut.largest:
        cut = originals.cut
        out.print(f"cut to a square: {cut.median:.0%} of an image's area is lost (median), at most {cut.largest:.0%}")
