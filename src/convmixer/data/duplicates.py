"""Images that occur more than once: the same pixels, or nearly the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from convmixer.data.datasets import Dataset, Split

SMALLEST_SIDE = 16
"""Of images that are compared by dHash, in pixels: smaller ones of one class look alike anyway."""
MOST_IMAGES = 200_000
"""That are compared by dHash."""
_BITS = 3  # in which two hashes of 64 bits may differ: one of four bands of 16 bits is then equal
_LEVELS = 25.0  # root mean square difference that is still alike, on a scale of 0 to 255
_NEIGHBOURS = 64  # with an equal band that an image is compared with: bounds the time of a thousand blank images
_EXAMPLES, _MEMBERS = 10, 4


@dataclass(frozen=True)
class Member:
    """An image of a group: where it is, and what it is labelled as."""

    split: str
    index: int
    name: str
    """Its file; empty for sets that are not files."""
    label: str


@dataclass(frozen=True)
class Duplicates:
    """Groups of images that are equal, or alike."""

    kind: Literal["exact", "near"]
    groups: int
    images: int
    """In all groups together."""
    within: dict[str, int]
    """Images of each split that repeat another one of the same split."""
    across: dict[str, int]
    """For "test in train", say: images of the first split that are in the second as well."""
    conflicting: int
    """Images in groups with more than one label."""
    examples: tuple[tuple[Member, ...], ...]
    """Some of the groups, across splits first, and some members of each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def exact_duplicates(dataset: Dataset) -> Duplicates:
    """Groups of images with the same pixels at the size that the model sees (equal 128-bit BLAKE2 digests)."""
    _, group = np.unique(_digests(dataset), return_inverse=True)
    return _describe("exact", dataset, group.reshape(-1))


def near_duplicates(dataset: Dataset) -> Duplicates | None:
    """Groups of images that look alike, exact duplicates aside; None for images or sets that are not suited.

    Two images are alike if at most 3 of the 64 bits of their dHash differ (the sign of the difference between
    horizontal neighbours in a grey image of 9×8 pixels; N. Krawetz, "Kind of Like That", 2013) and grey images of
    16×16 pixels differ by at most a tenth of the range. Other crops and mirror images are not found.
    """
    if dataset.info.image_size < SMALLEST_SIDE or sum(map(len, dataset.splits.values())) > MOST_IMAGES:
        return None
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    images = torch.cat([split.images for split in dataset.splits.values()])
    _, chosen, copy_of = np.unique(_digests(dataset), return_index=True, return_inverse=True)
    distinct, copy_of = images[torch.from_numpy(chosen)], copy_of.reshape(-1)
    first, second = _candidates(_difference_hashes(distinct))
    alike = _alike(distinct, first, second)
    links = coo_array((np.ones(alike.sum()), (first[alike], second[alike])), shape=(len(distinct), len(distinct)))
    _, component = connected_components(links, directed=False)
    group = component[copy_of]
    alone = np.bincount(component)[group] == 1  # but for exact duplicates
    group[alone] = component.max() + 1 + np.arange(alone.sum())
    return _describe("near", dataset, group)


def _alike(images: torch.Tensor, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which pairs of images differ little, (M,): between ``first`` and ``second``, indices into ``images``."""
    needed, place = np.unique(np.concatenate((first, second)), return_inverse=True)
    small = _grey(images[torch.from_numpy(needed)], 16, 16)
    a, b = torch.from_numpy(place.reshape(2, -1))
    parts = zip(a.split(4096), b.split(4096), strict=True)
    near = [(small[i] - small[j]).square().mean((1, 2)).sqrt() <= _LEVELS for i, j in parts]
    return torch.cat(near).numpy()


def _digests(dataset: Dataset) -> NDArray[np.void]:
    """(N,) 16 bytes each, of all splits one after the other."""
    found = bytearray()
    for split in dataset.splits.values():
        for image in split.images.contiguous().numpy():
            found += hashlib.blake2b(image.data, digest_size=16).digest()
    return np.frombuffer(bytes(found), dtype="V16")


def _grey(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N, C, H, W) uint8 → (N, height, width) float32, averaged over areas; grey as in ITU-R BT.601."""
    weights = torch.tensor((0.299, 0.587, 0.114) if images.shape[1] == 3 else (1.0,)).view(1, -1, 1, 1)
    if not len(images):
        return images.new_zeros((0, height, width), dtype=torch.float32)
    parts = [F.interpolate(part.float(), (height, width), mode="area") for part in images.split(512)]
    return torch.cat([(part * weights).sum(1) for part in parts])


def _difference_hashes(images: torch.Tensor) -> NDArray[np.uint64]:
    small = _grey(images, 8, 9)
    bits = (small[:, :, 1:] > small[:, :, :-1]).flatten(1).numpy()
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _candidates(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs (i, j), i < j, whose hashes differ in few bits; each pair once."""
    pairs = [np.empty((0, 2), dtype=np.intp)]
    for band in hashes.view(np.uint16).reshape(-1, 4).T:
        order = np.lexsort((hashes, band))  # equal hashes lie next to each other
        ordered = band[order]
        for step in range(1, min(_NEIGHBOURS, len(hashes) - 1) + 1):
            equal = ordered[step:] == ordered[:-step]
            if not equal.any():
                break
            i, j = order[:-step][equal], order[step:][equal]
            close = _popcount(hashes[i] ^ hashes[j]) <= _BITS
            pairs.append(np.stack((np.minimum(i, j), np.maximum(i, j)), axis=1)[close])
    found = np.unique(np.concatenate(pairs), axis=0)
    return found[:, 0], found[:, 1]


_ONES = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


def _popcount(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    ones: NDArray[np.uint8] = _ONES[values.view(np.uint8).reshape(-1, 8)].sum(axis=1, dtype=np.uint8)
    return ones


def _describe(kind: Literal["exact", "near"], dataset: Dataset, group: NDArray[np.intp]) -> Duplicates:
    """Counts from the number of each image's group, over all splits one after the other."""
    splits = dataset.splits
    of = dict(zip(splits, np.split(group, np.cumsum([len(split) for split in splits.values()])[:-1]), strict=True))
    counts = np.bincount(group)
    labels = np.concatenate([split.labels.numpy() for split in splits.values()])
    pairs = np.unique(np.stack((group, labels), axis=1), axis=0)
    several = np.bincount(pairs[:, 0]) > 1
    return Duplicates(
        kind=kind,
        groups=int((counts > 1).sum()),
        images=int(counts[counts > 1].sum()),
        within={name: len(own) - len(np.unique(own)) for name, own in of.items()},
        across={
            f"{later} in {earlier}": int(np.isin(of[later], of[earlier]).sum())
            for later, earlier in (("val", "train"), ("test", "train"), ("test", "val"))
            if later in of and earlier in of
        },
        conflicting=int(several[group].sum()),
        examples=_examples(splits, dataset.info.classes, of, counts),
    )


def _examples(
    splits: Mapping[str, Split], classes: tuple[str, ...], of: Mapping[str, NDArray[np.intp]], counts: NDArray[np.intp]
) -> tuple[tuple[Member, ...], ...]:
    spread = np.bincount(np.concatenate([np.unique(own) for own in of.values()]), minlength=len(counts))
    repeated = np.flatnonzero(counts > 1)
    chosen = repeated[np.argsort(-spread[repeated], kind="stable")][:_EXAMPLES]
    groups = []
    for number in chosen:
        members = []
        for name, own in of.items():
            split = splits[name]
            for index in np.flatnonzero(own == number)[:_MEMBERS].tolist():
                file = split.names[index] if split.names else ""
                members.append(Member(name, index, file, classes[int(split.labels[index])]))
        groups.append(_from_every_split(members))
    return tuple(groups)


def _from_every_split(members: list[Member]) -> tuple[Member, ...]:
    """The first few members, those that begin a split before all others."""
    begins = {member.split: member for member in reversed(members)}
    ordered = sorted(members, key=lambda member: begins[member.split] is not member)
    return tuple(ordered[:_MEMBERS])
