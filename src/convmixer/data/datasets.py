"""What a data set is, where each one comes from, and how it is split."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convmixer.config import DataConfig, Protocol
from convmixer.datasets import loader_of
from convmixer.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of a data set.

    images: (N, C, H, W) uint8, contiguous.  labels: (N,) int64 in [0, number of classes).
    names: N files that the images come from, relative to the data set's folder; empty for sets that are not files.
    """

    images: torch.Tensor
    labels: torch.Tensor
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: torch.Tensor) -> Split:
        """The images and labels at ``index``, (M,) int64, in that order."""
        names = tuple(self.names[i] for i in index.tolist()) if self.names else ()
        return Split(self.images[index], self.labels[index], names)


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
class Dataset:
    """A data set in memory: ``splits`` has train and test, and val where a part was held out."""

    info: DatasetInfo
    splits: dict[str, Split]


@dataclass(frozen=True)
class Collection:
    """What a source delivers: labelled images as they are stored, before we hold out any part of them.

    ``parts`` has train, and test or val where the source itself sets them apart.
    """

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Split]
    mirror: bool


def load_dataset(
    config: DataConfig | str,
    *,
    protocol: Protocol = "validation",
    console: Console | None = None,
    classes: Sequence[str] = (),
) -> Dataset:
    """Loads a data set into memory, checks it, and splits it.

    Args:
        config: which data set and how to split it, or just its name, such as ``digits``.
        protocol: ``validation`` holds ``config.val_fraction`` of the training images out (nothing if that is 0), unless
            the data brings a validation part of its own; ``original`` has no validation part.
        console: where to show progress (on terminals only), remarks, and warnings about duplicates, imbalance and
            classes that a split lacks; silent without one.
        classes: order of the classes, where the data set has the same ones in another order; a run that was trained
            before the order of folders changed has its own.

    Returns:
        Splits train, test and, if held out, val: images (N, C, H, W) uint8, labels (N,) int64, on the CPU.

    Raises:
        InputError: the data is missing, damaged or too small, cannot be downloaded, or does not suit the configuration.
    """
    if isinstance(config, str):
        config = DataConfig(dataset=config)
    return split_collection(load_collection(config, console, classes), config, protocol=protocol, console=console)


def load_collection(config: DataConfig, console: Console | None = None, classes: Sequence[str] = ()) -> Collection:
    """Loads a data set as its source has it. Arguments and errors as :func:`load_dataset`."""
    load: Callable[[DataConfig, Console | None], Collection]
    module, _, function = (loader_of(config.dataset) or "").partition(":")
    load = getattr(importlib.import_module(module), function)
    return _ordered(load(config, console), tuple(classes))


def split_collection(
    collection: Collection, config: DataConfig, *, protocol: Protocol = "validation", console: Console | None = None
) -> Dataset:
    """Checks a data set and splits it. Arguments and errors as :func:`load_dataset`."""
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
    dataset = Dataset(info, splits)
    if console is not None:
        from convmixer.data.inspection import inspect

        for warning in inspect(dataset).warnings:
            console.print(f"Warning: {warning}", style="yellow", highlight=False, markup=False)
    return dataset


def _ordered(collection: Collection, classes: tuple[str, ...]) -> Collection:
    """The collection with its classes, and the images of each part, in the order of ``classes`` if these are its."""
    if classes == collection.classes or sorted(classes) != sorted(collection.classes):
        return collection
    numbers = torch.tensor([classes.index(name) for name in collection.classes])
    parts = {}
    for name, split in collection.parts.items():
        renumbered = replace(split, labels=numbers[split.labels])
        parts[name] = renumbered.take(renumbered.labels.argsort(stable=True))
    return replace(collection, classes=classes, parts=parts)


def _check_class_sizes(labels: torch.Tensor, missing: Sequence[str], classes: Sequence[str]) -> None:
    """Raises InputError if a class has fewer images than the parts that take some of them."""
    needed = 1 + len(missing)
    counts = dict(zip(classes, labels.bincount(minlength=len(classes)).tolist(), strict=True))
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


def _set_aside(whole: Split, name: str, fraction: float, seed: int, classes: Sequence[str]) -> dict[str, Split]:
    rest, held = stratified_split(whole.labels, fraction, seed, classes)
    return {"train": whole.take(rest), name: whole.take(held)}


def stratified_split(
    labels: torch.Tensor, fraction: float, seed: int, classes: Sequence[str] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
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
    numbers = labels.numpy()
    held = np.zeros(len(numbers), dtype=bool)
    for label in np.unique(numbers):
        members = np.flatnonzero(numbers == label)
        if len(members) < 2:
            name = repr(classes[label]) if len(classes) else label
            raise InputError(f"class {name} has only one image to split; add images of it, or leave the class out.")
        count = min(max(math.floor(len(members) * fraction + 0.5), 1), len(members) - 1)
        held[random.permutation(members)[:count]] = True
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def channel_histogram(images: torch.Tensor) -> torch.Tensor:
    """How often each value occurs in each channel: (N, C, H, W) uint8 -> (C, 256) int64."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    step = max(1, 2**22 // max(1, images[0, 0].numel()))  # bincount works on int64 copies: keep them small
    for start in range(0, len(images), step):
        for channel in range(len(counts)):
            counts[channel] += torch.bincount(images[start : start + step, channel].flatten(), minlength=256)
    return counts


def channel_sums(images: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Exact sum of the values, and of their squares, in each channel of (N, C, H, W) uint8 images."""
    histogram = channel_histogram(images)
    values = torch.arange(256)
    return tuple((histogram * values).sum(1).tolist()), tuple((histogram * values**2).sum(1).tolist())


def channel_statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (N, C, H, W) uint8 images scaled to [0, 1].

    They are computed in integers up to the last division, so that they do not depend on the order of summation. A
    deviation of 0 is given as 1, so that dividing by it is harmless.
    """
    n = images[:, 0].numel()
    sums, squares = channel_sums(images)
    mean = tuple(s / (255 * n) for s in sums)
    std = tuple(math.sqrt(n * q - s * s) / (255 * n) or 1.0 for s, q in zip(sums, squares, strict=True))
    return mean, std


def fingerprint(classes: Sequence[str], parts: Mapping[str, Split]) -> str:
    """SHA-256, in hexadecimal digits, of class names and of each part's name, shape, pixels and labels."""
    content: dict[str, str] = {}
    for name, split in parts.items():
        digest = hashlib.sha256(str(tuple(split.images.shape)).encode())
        digest.update(split.images.contiguous().numpy().data)
        digest.update(split.labels.numpy().astype("<i8").data)
        content[name] = digest.hexdigest()
    return hashlib.sha256(json.dumps({"classes": list(classes), **content}, sort_keys=True).encode()).hexdigest()
