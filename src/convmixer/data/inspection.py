"""What to know about a data set before training on it: class counts, imbalance, duplicates, missing classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from convmixer.data.datasets import Dataset
from convmixer.data.duplicates import Duplicates, exact_duplicates

if TYPE_CHECKING:
    from rich.console import Console

_IMBALANCED = 10.0  # ratio of class sizes from which a warning is given
_NAMED = 5  # classes that a warning names


@dataclass(frozen=True)
class Imbalance:
    """How unequal the training classes are, and what that is worth."""

    largest: str
    smallest: str
    ratio: float
    """Training images of the largest class for each one of the smallest."""
    majority_baseline: float
    """Test accuracy of always answering with the largest training class."""


@dataclass(frozen=True)
class Inspection:
    """What was found in a data set."""

    counts: dict[str, tuple[int, ...]]
    """Images of each class in each split, in the order of the classes."""
    missing: dict[str, tuple[str, ...]]
    """Classes that a split has no images of; splits with all classes are left out."""
    imbalance: Imbalance
    duplicates: Duplicates
    warnings: tuple[str, ...]
    """What endangers the results, a sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def inspect(dataset: Dataset) -> Inspection:
    """Counts classes and exact duplicates; takes about a second per 100,000 images of 32×32."""
    classes = dataset.info.classes
    counts = {
        name: tuple(dataset.splits[name].labels.bincount(minlength=len(classes)).tolist())
        for name in dataset.info.sizes  # in their usual order
    }
    missing = {
        name: tuple(c for c, number in zip(classes, numbers, strict=True) if not number)
        for name, numbers in counts.items()
        if 0 in numbers
    }
    train, test = counts["train"], counts["test"]
    most, least = train.index(max(train)), train.index(min(train))
    imbalance = Imbalance(classes[most], classes[least], train[most] / max(train[least], 1), test[most] / sum(test))
    duplicates = exact_duplicates(dataset)
    warnings = tuple(_warnings(dataset, missing, imbalance, duplicates))
    return Inspection(counts, missing, imbalance, duplicates, warnings)


def warn(dataset: Dataset, console: Console | None) -> None:
    """Prints what endangers results on a data set, if there is a console to print on."""
    if console is None:
        return
    for warning in inspect(dataset).warnings:
        console.print(f"Warning: {warning}", style="yellow", highlight=False, markup=False)


def _warnings(
    dataset: Dataset, missing: dict[str, tuple[str, ...]], imbalance: Imbalance, duplicates: Duplicates
) -> Iterator[str]:
    for name, absent in missing.items():
        share = f"{len(absent)} of {len(dataset.info.classes)} classes"
        yield f"The {name} part has no images of {share} ({_some(absent)}); its figures do not cover them."
    for pair, number in duplicates.across.items():
        later, _, earlier = pair.partition(" in ")
        if number:
            total = len(dataset.splits[later])
            yield (
                f"{number} of {total} {later} images are also in the {earlier} part, pixel for pixel: "
                f"figures on the {later} part are too good."
            )
    if duplicates.conflicting:
        yield f"{duplicates.conflicting} images have the same pixels as an image with another label."
    if within := sum(duplicates.within.values()):
        yield f"{within} images repeat another image of the same part, pixel for pixel."
    if imbalance.ratio >= _IMBALANCED:
        yield (
            f"Class {imbalance.largest!r} has {imbalance.ratio:.0f} times as many training images as "
            f"{imbalance.smallest!r}: always answering {imbalance.largest!r} would score "
            f"{imbalance.majority_baseline:.1%} on the test part."
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
