"""Folders of images, one folder a class: which files are in which part and class."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convmixer.config import DataConfig
from convmixer.data.collection import Collection, Part
from convmixer.data.decoded import LARGEST_OWN_SIZE, Files, Survey, decoded_pixels
from convmixer.data.image_files import (
    Problem,
    Stat,
    find_images,
    is_file,
    is_folder,
    kind_of,
    unreadable_folder,
    visible,
)
from convmixer.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
}
"""Names of the parts' folders, in any case."""


@dataclass(frozen=True)
class Listing:
    """What is in a folder."""

    files: Files
    """In the order of their images: by part, then class, then name."""
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    bounds: dict[str, tuple[int, int]]
    """First and last + 1 index of each part."""
    remarks: tuple[str, ...]
    """What else is in the folder, a sentence each."""
    problems: tuple[Problem, ...]
    """Entries among the images that are no files that can be read."""


def load(config: DataConfig, console: Console | None) -> Collection:
    """Loads ``PATH/train/<class>/*`` with ``test`` and ``val`` if present, or ``PATH/<class>/*``.

    The parts' folders may be called training, testing, valid, validation or dev as well, and images may lie in folders
    below that of their class; :func:`~convmixer.data.image_files.find_images` says which files are images. Classes are
    in natural order: 2 before 10. Images become (3, S, S), with S ``config.image_size`` or, by default, the size that
    all images share (if they are square and no larger than 224), else 64.

    Raises:
        InputError: no such folder, no classes in it, an empty class, or files that are not whole images, by name.
    """
    path = Path(config.dataset.partition(":")[2]).expanduser()
    skip_bad = config.bad_images == "skip"
    listing = scan(path)
    if listing.problems and not skip_bad:
        raise InputError(f"{_sentence(listing.problems[0])}; replace or remove it.")
    pixels, survey = decoded_pixels(
        listing.files, config.image_size, console, skip_bad=skip_bad, unchanged=lambda: scan(path) == listing
    )
    if console is not None:
        for remark in (*listing.remarks, *_findings(listing, survey, pixels.shape[-1])):
            console.print(f"{path}: {remark}", markup=False, highlight=False)
    return _collection(listing, pixels, {index for index, _ in survey.bad})


def _findings(listing: Listing, survey: Survey, size: int) -> Iterator[str]:
    """What was found when the files were read, a sentence each."""
    if survey.chosen:
        yield (
            f"the images are not all square and of one size up to {LARGEST_OWN_SIZE}, so they are scaled and "
            f"cut to {size}×{size}; choose another size with --image-size."
        )
    bad = [*map(_sentence, listing.problems), *(reason for _, reason in survey.bad)]
    if bad:
        total = len(listing.files.names) + len(listing.problems)
        yield f"skipped {len(bad)} of {total} files, which are no whole images: {'; '.join(bad)}."


def _collection(listing: Listing, pixels: np.ndarray, bad: set[int]) -> Collection:
    labels = np.array(listing.labels, dtype=np.int64)
    parts = {}
    for part, (start, end) in listing.bounds.items():
        whole = Part(pixels[start:end], labels[start:end], listing.files.names[start:end])
        good = np.array([index - start for index in range(start, end) if index not in bad], dtype=np.int64)
        # Copied, so that the other parts do not keep all memory in use when the training part is divided further.
        parts[part] = whole if part == "train" and len(good) == len(whole) else whole.take(good)
    path = listing.files.root
    name = (path if path.name not in ("", "..") else path.resolve()).name
    return Collection(f"folder:{name}", listing.classes, parts, mirror=True)


def scan(path: Path) -> Listing:
    """Lists the image files of a folder, without reading them.

    Raises:
        InputError: the folder is missing or is laid out in another way than :func:`load` describes.
    """
    if not is_folder(path):
        if is_file(path):
            raise InputError(f"`dataset`: {path} is a file; give the folder that holds a folder for each class.")
        raise InputError(f"`dataset`: there is no folder {path}; give folder:PATH with an existing PATH.")
    folders, unused = _parts(path)
    classes, skipped = _class_names(folders["train"])
    names, labels, stats = list[str](), list[int](), list[Stat]()
    bounds, problems, nested = dict[str, tuple[int, int]](), list[Problem](), 0
    for part, folder in folders.items():
        start = len(names)
        own, loose = _class_names(folder, classes)
        skipped = loose if part == "train" else skipped + loose
        for name in own:
            found = find_images(folder / name)
            for problem in found.problems:
                if problem.folder:
                    raise InputError(f"{_sentence(problem)}.")
            if not found.names and not found.problems:
                has = f" ({_counted(found.skipped)} are no images that can be read)" if found.skipped else ""
                raise InputError(f"{folder / name}: the class {name!r} has no images{has}; add some or remove it.")
            prefix = (folder / name).relative_to(path).as_posix()
            names += [f"{prefix}/{file}" for file in found.names]
            labels += [classes.index(name)] * len(found.names)
            stats += found.stats
            problems += found.problems
            skipped.update(found.skipped)
            nested += sum("/" in file for file in found.names)
        bounds[part] = (start, len(names))
    remarks = tuple(_remarks(skipped, nested, unused))
    return Listing(Files(path, tuple(names), tuple(stats)), classes, tuple(labels), bounds, remarks, tuple(problems))


def _remarks(skipped: Counter[str], nested: int, unused: Sequence[str]) -> Iterator[str]:
    if skipped:
        yield f"skipped files that are no images: {_counted(skipped)}."
    if nested:
        yield f"{nested} images lie in folders below that of their class and belong to that class."
    if unused:
        yield f"not used, as it is neither train nor validation nor test: {', '.join(unused)}."


def _counted(suffixes: dict[str, int]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in Counter(suffixes).most_common())


def _sentence(problem: Problem) -> str:
    return f"{problem.path} {problem.reason}"


def _parts(path: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each part that the user set apart, else ``path`` itself as the training part; folders not used."""
    there = [entry.name for entry in _listed(path) if kind_of(entry) == "folder"]
    named: dict[str, list[str]] = {}
    for name in there:
        if part := _PARTS.get(name.lower()):
            named.setdefault(part, []).append(name)
    folders: dict[str, Path] = {part: path / named[part][0] for part in ("train", "test", "val") if part in named}
    # A folder "train" that holds images instead of folders is the class of trains.
    if "train" in folders and any(kind_of(entry) == "folder" for entry in _listed(folders["train"])):
        for names in named.values():
            if len(names) > 1:
                raise InputError(f"{path} has both {' and '.join(names)}; keep one of them.")
        return folders, [name for name in there if name.lower() not in _PARTS]
    if there and all(name.lower() in _PARTS for name in there):
        raise InputError(
            f"{path} has {' and '.join(there)}, but no train/<class> folders; add them, or give a folder that "
            "holds just a folder of images for each class."
        )
    return {"train": path}, []


def _class_names(folder: Path, known: Sequence[str] | None = None) -> tuple[tuple[str, ...], Counter[str]]:
    """Names of the class folders of a part, and the files beside them that are no images, by suffix.

    ``known`` are the classes of the training part.
    """
    entries = [(entry.name, kind_of(entry)) for entry in _listed(folder)]
    names = tuple(sorted((name for name, kind in entries if kind == "folder"), key=natural_key))
    loose = [name for name, kind in entries if kind == "image"]
    if loose:
        raise InputError(f"{folder / loose[0]} is in no class folder; put each image into the folder of its class.")
    if not names:
        raise InputError(f"{folder} has no class folders; give a folder that holds a folder of images for each class.")
    if known is None and len(names) == 1:
        raise InputError(f"{folder} has only one class, {names[0]!r}; a classifier needs at least two.")
    for name in names:
        if not _is_unicode(name):
            raise InputError(f"{folder}: the name of the class folder {os.fsencode(name)!r} is not UTF-8; rename it.")
        if name not in (known or names):
            raise InputError(f"{folder / name}: the training images have no class {name!r}; add it or remove this one.")
    return names, Counter(Path(name).suffix.lower() or "without suffix" for name, kind in entries if kind == "other")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """What to sort by so that 2 comes before 10, and cat 2 before cat 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))], name


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return visible(folder)
    except OSError as error:
        raise InputError(f"{_sentence(unreadable_folder(folder, error))}.") from None
