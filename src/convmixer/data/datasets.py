"""Data sets as tensors: what training and the torch side of everything else works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from convmixer.config import DataConfig, Protocol
from convmixer.data.collection import DatasetInfo, Divided, Part, divide, load_collection

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Split:
    """A :class:`~convmixer.data.collection.Part` as tensors that share its memory.

    images: (N, C, H, W) uint8, contiguous.  labels: (N,) int64 in [0, number of classes).
    names: N files that the images come from, relative to the data set's folder; empty for sets that are not files.
    """

    images: torch.Tensor
    labels: torch.Tensor
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, part: Part) -> Split:
        """The same images as tensors."""
        return cls(torch.from_numpy(part.images), torch.from_numpy(part.labels), part.names)

    def part(self) -> Part:
        """The same images as arrays; they have to be on the CPU."""
        return Part(self.images.numpy(), self.labels.numpy(), self.names)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: torch.Tensor) -> Split:
        """The images and labels at ``index``, (M,) int64, in that order."""
        names = tuple(self.names[i] for i in index.tolist()) if self.names else ()
        return Split(self.images[index], self.labels[index], names)


@dataclass(frozen=True)
class Dataset:
    """A data set in memory: ``splits`` has train and test, and val where a part was held out."""

    info: DatasetInfo
    splits: dict[str, Split]

    @classmethod
    def of(cls, divided: Divided) -> Dataset:
        """The same data set as tensors."""
        return cls(divided.info, {name: Split.of(part) for name, part in divided.parts.items()})


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
    # Nothing here keeps the collection, whose images would stay in memory beside their copies in the splits.
    dataset = Dataset.of(divide(load_collection(config, console, classes), config, protocol=protocol))
    from convmixer.data.inspection import warn  # it builds on this module

    warn(dataset, console)
    return dataset
