"""What a data set is, where each one comes from, and how it is split: NumPy arrays, without torch."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmixer.config import DataConfig, Protocol
from convmixer.datasets import loader_of
from convmixer.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Part:
    """Images and labels of one part of a data set.

    images: (N, C, H, W) uint8, contiguous.  labels: (N,) int64 in [0, number of classes).
    names: N files that the images come from, relative to the data set's folder; empty for sets that are not files.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.integer[Any]]) -> Part:
        """The images and labels at ``index``, (M,), in that order."""
        names = tuple(self.names[i] for i in index.tolist()) if self.names else ()
        return Part(self.images[index], self.labels[index], names)


@dataclass(frozen=True)
class DatasetInfo:
    """What a model has to know of the data it was trained on; a run directory's ``dataset.json``."""

    name: str
    """The data set's name, or folder:NAME."""
    classes: tuple[str, ...]
    channels: int
    image_size: int
    """Side in pixels; images are square."""
    mean: tuple[float, ...]
    """Per channel, of the training images (validation part included) scaled to [0, 1]."""
    std: tuple[float, ...]
    """Likewise; 1 for a channel that is constant."""
    mirror: bool
    """Whether a mirrored image keeps its label."""
    fingerprint: str
    """SHA-256 of all pixels, labels and class names, in order: equal for equal data, wherever it lies and however it is
    stored. It depends on what the test part is, but not on how much of the rest is held out for validation."""
    sizes: dict[str, int]
    """Images in each split: train, val, test."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``dataset.json`` holds them."""
        return asdict(self)


@dataclass(frozen=True)
class Divided:
    """A data set in memory: ``parts`` has train and test, and val where a part was held out."""

    info: DatasetInfo
    parts: dict[str, Part]


@dataclass(frozen=True)
class Collection:
    """What a source delivers: labelled images as they are stored, before we hold out any part of them.

    ``parts`` has train, and test or val where the source itself sets them apart.
    """

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Part]
    mirror: bool


def load_collection(config: DataConfig, console: Console | None = None, classes: Sequence[str] = ()) -> Collection:
    """Loads a data set as its source has it. Arguments and errors as :func:`convmixer.data.datasets.load_dataset`."""
    load: Callable[[DataConfig, Console | None], Collection]
    module, _, function = (loader_of(config.dataset) or "").partition(":")
    load = getattr(importlib.import_module(module), function)
    return _ordered(load(config, console), tuple(classes))


def divide(collection: Collection, config: DataConfig, *, protocol: Protocol = "validation") -> Divided:
    """Checks a data set and splits it. Arguments and errors as :func:`convmixer.data.datasets.load_dataset`."""
    name, classes, mirror, splits = collection.name, collection.classes, collection.mirror, dict(collection.parts)
    del collection  # or its images would stay in memory beside their copies in the splits
    own_size = splits["train"].images.shape[-1]
    if config.image_size not in (None, own_size):
        raise InputError(
            f"--image-size: the images of {config.dataset} are {own_size}×{own_size}, and only those of a folder "
            "are resized; leave the flag out."
        )
    holds_out = protocol != "original" and config.val_fraction > 0
    missing = [part for part, wanted in (("val", holds_out), ("test", True)) if wanted and part not in splits]
    _check_class_sizes(splits["train"].labels, missing, classes)
    if "test" in missing:
        splits |= _set_aside(splits["train"], "test", config.test_fraction, config.split_seed, classes)
    mean, std = channel_statistics(splits["train"].images)
    digest = fingerprint(classes, splits)
    if not holds_out:
        splits.pop("val", None)
    elif "val" in missing:
        splits |= _set_aside(splits["train"], "val", config.val_fraction, config.split_seed, classes)
    info = DatasetInfo(
        name=name,
        classes=classes,
        channels=splits["train"].images.shape[1],
        image_size=own_size,
        mean=mean,
        std=std,
        mirror=mirror,
        fingerprint=digest,
        sizes={part: len(splits[part]) for part in ("train", "val", "test") if part in splits},
    )
    return Divided(info, splits)


def _ordered(collection: Collection, classes: tuple[str, ...]) -> Collection:
    """The collection with its classes, and the images of each part, in the order of ``classes`` if these are its."""
    if classes == collection.classes or sorted(classes) != sorted(collection.classes):
        return collection
    numbers = np.array([classes.index(name) for name in collection.classes], dtype=np.int64)
    parts = {}
    for name, part in collection.parts.items():
        renumbered = replace(part, labels=numbers[part.labels])
        parts[name] = renumbered.take(renumbered.labels.argsort(kind="stable"))
    return replace(collection, classes=classes, parts=parts)


def _check_class_sizes(labels: NDArray[np.int64], missing: Sequence[str], classes: Sequence[str]) -> None:
    """Raises InputError if a class has fewer images than the parts that take some of them."""
    needed = 1 + len(missing)
    counts = dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))
    name = min(counts, key=counts.__getitem__)
    if counts[name] >= needed:
        return
    if needed == 1:
        raise InputError(f"class {name!r} has no training image; add some, or leave the class out.")
    has = "only one image" if counts[name] == 1 else f"only {counts[name]} images"
    enough_without = "val" in missing and counts[name] == needed - 1
    without = ", or hold no validation part out with --val-fraction 0" if enough_without else ""
    raise InputError(
        f"class {name!r} has {has}, and the parts {', '.join(('train', *missing))} need {needed}: "
        f"add images or leave the class out{without}."
    )


def _set_aside(whole: Part, name: str, fraction: float, seed: int, classes: Sequence[str]) -> dict[str, Part]:
    rest, held = stratified_split(whole.labels, fraction, seed, classes)
    return {"train": whole.take(rest), name: whole.take(held)}


def stratified_split(
    labels: ArrayLike, fraction: float, seed: int, classes: Sequence[str] = ()
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divides a set into two that have the same share of every class.

    The choice depends on the arguments alone (not on any global random state, and not on the version of NumPy).

    Args:
        labels: (N,) int64.
        fraction: part of each class to hold out, in (0, 1), rounded to whole images: at least one, and never all.
        seed: non-negative.
        classes: names to use in messages.

    Returns:
        Indices of those that stay and of those that are held out, (M,) and (N - M,) int64, both ascending.

    Raises:
        InputError: a class has only one image; the seed is negative.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction has to be between 0 and 1, not {fraction}")
    if seed < 0:
        raise InputError(f"--split-seed: {seed} is negative; give 0 or more.")
    # RandomState's stream is frozen, that of a Generator may change with a new NumPy.
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    numbers = np.asarray(labels)
    held = np.zeros(len(numbers), dtype=bool)
    for label in np.unique(numbers):
        members = np.flatnonzero(numbers == label)
        if len(members) < 2:
            name = repr(classes[label]) if len(classes) else label
            raise InputError(f"class {name} has only one image to split; add images of it, or leave the class out.")
        count = min(max(math.floor(len(members) * fraction + 0.5), 1), len(members) - 1)
        held[random.permutation(members)[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def channel_sums(images: NDArray[np.uint8]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Exact sum of the values, and of their squares, in each channel of (N, C, H, W) uint8 images."""
    sums, squares = np.zeros((2, images.shape[1]), dtype=np.int64)
    step = max(1, 2**21 // max(1, images[0].size))  # what the processor's cache holds
    for start in range(0, len(images), step):
        wide = images[start : start + step].astype(np.uint16)
        sums += wide.sum((0, 2, 3), dtype=np.int64)
        wide *= wide
        squares += wide.sum((0, 2, 3), dtype=np.int64)
    return tuple(sums.tolist()), tuple(squares.tolist())


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (N, C, H, W) uint8 images scaled to [0, 1].

    They are computed in integers up to the last division, so that they do not depend on the order of summation. A
    deviation of 0 is given as 1, so that dividing by it is harmless.
    """
    n = images[:, 0].size
    sums, squares = channel_sums(images)
    mean = tuple(s / (255 * n) for s in sums)
    std = tuple(math.sqrt(n * q - s * s) / (255 * n) or 1.0 for s, q in zip(sums, squares, strict=True))
    return mean, std


def fingerprint(classes: Sequence[str], parts: Mapping[str, Part]) -> str:
    """SHA-256, in hexadecimal digits, of class names and of each part's name, shape, pixels and labels."""
    content: dict[str, str] = {}
    for name, part in parts.items():
        digest = hashlib.sha256(str(tuple(part.images.shape)).encode())
        digest.update(np.ascontiguousarray(part.images).data)
        digest.update(part.labels.astype("<i8").data)
        content[name] = digest.hexdigest()
    return hashlib.sha256(json.dumps({"classes": list(classes), **content}, sort_keys=True).encode()).hexdigest()
