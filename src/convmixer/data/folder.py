"""Folders of images, one folder a class, decoded once and then read from a cache.

The cache never decides what the data are: an entry is named after the content of all files, and it is used only if its
checksum is right. What spares the reading of the files is a record of their sizes and times.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from convmixer.config import DataConfig
from convmixer.data.datasets import Collection, Split
from convmixer.data.images import IMAGE_SUFFIXES, BadImage, decode_images, header, in_threads, read
from convmixer.errors import InputError
from convmixer.files import atomic_path, cache_dir, write_atomic
from convmixer.runtime.progress import progress

if TYPE_CHECKING:
    from rich.console import Console

_PARTS = {"train": "train", "test": "test", "val": "val", "validation": "val"}
_NO_DATA = frozenset({"thumbs.db", "desktop.ini"})  # besides hidden files: what file managers leave behind
_LARGEST_OWN_SIZE = 224
_DEFAULT_SIZE = 64
_FORMAT = 1  # of cache entries: change it whenever the same files would give other pixels

_Stat = tuple[int, int, int]  # size in bytes, times of last modification and change in nanoseconds


@dataclass(frozen=True)
class Listing:
    """The files of a folder, in the order of their images: by part, then class, then name."""

    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """Paths relative to ``root``, with slashes."""
    labels: tuple[int, ...]
    stats: tuple[_Stat, ...]
    bounds: dict[str, tuple[int, int]]
    """First and last + 1 index of each part."""

    @property
    def paths(self) -> list[Path]:
        """Where the files are."""
        return [self.root / name for name in self.names]


def load(config: DataConfig, console: Console | None) -> Collection:
    """Loads ``PATH/train/<class>/*`` with ``test`` and ``val`` (or ``validation``) if present, or ``PATH/<class>/*``.

    Classes are sorted by name. Images become (3, S, S), with S ``config.image_size`` or, by default, the size that all
    images share (if they are square and no larger than 224), else 64.

    Raises:
        InputError: no such folder, no classes in it, an empty class, or files that are not whole images, by name.
    """
    path = Path(config.dataset.partition(":")[2]).expanduser()
    listing = scan(path)
    pixels, chosen = _pixels(listing, config.image_size, console)
    if chosen and console is not None:
        size = pixels.shape[-1]
        console.print(
            f"{path}: the images are not all square and of one size up to {_LARGEST_OWN_SIZE}, so they are scaled and "
            f"cut to {size}×{size}; choose another size with --image-size.",
            markup=False,
            highlight=False,
        )
    images, labels = torch.from_numpy(pixels), torch.tensor(listing.labels, dtype=torch.int64)
    parts = {}
    for part, (start, end) in listing.bounds.items():
        # Copied, so that the other parts do not keep all memory in use when the training part is divided further.
        own = images[start:end] if part == "train" else images[start:end].clone()
        parts[part] = Split(own, labels[start:end], listing.names[start:end])
    name = (path if path.name not in ("", "..") else path.resolve()).name
    return Collection(f"folder:{name}", listing.classes, parts, mirror=True)


# --- what is in the folder -------------------------------------------------------------------------------------------


def scan(path: Path) -> Listing:
    """Lists the image files of a folder, without reading them.

    Raises:
        InputError: the folder is missing or is laid out in another way than :func:`load` describes.
    """
    if not path.exists():
        raise InputError(f"--dataset: there is no folder {path}; give folder:PATH with an existing PATH.")
    if not path.is_dir():
        raise InputError(f"--dataset: {path} is a file; give the folder that holds a folder of images for each class.")
    folders = _parts(path)
    classes = _class_names(folders["train"])
    names: list[str] = []
    labels: list[int] = []
    stats: list[_Stat] = []
    bounds: dict[str, tuple[int, int]] = {}
    for part, folder in folders.items():
        start = len(names)
        for name in _class_names(folder, classes):
            files = _class_files(folder / name)
            prefix = (folder / name).relative_to(path).as_posix()
            names += [f"{prefix}/{file}" for file, _ in files]
            stats += [stat for _, stat in files]
            labels += [classes.index(name)] * len(files)
        bounds[part] = (start, len(names))
    return Listing(path, classes, tuple(names), tuple(labels), tuple(stats), bounds)


def _parts(path: Path) -> dict[str, Path]:
    """The folder of each part that the user set apart, else ``path`` itself as the training part."""
    there = {sub.name for sub in _subfolders(path)}
    # A folder "train" that holds images instead of folders is the class of trains.
    if "train" in there and _subfolders(path / "train"):
        if {"val", "validation"} <= there:
            raise InputError(f"{path} has both val and validation; keep one of them.")
        return {part: path / name for name, part in _PARTS.items() if name in there}
    if there and there <= set(_PARTS):
        raise InputError(
            f"{path} has {' and '.join(sorted(there))}, but no train/<class> folders; add them, or give a folder that "
            "holds just a folder of images for each class."
        )
    return {"train": path}


def _class_names(folder: Path, known: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of the class folders of a part; ``known`` are those of the training part."""
    names = tuple(sorted(sub.name for sub in _subfolders(folder)))
    loose = sorted(f.name for f in _visible(folder) if f.is_file() and Path(f.name).suffix.lower() in IMAGE_SUFFIXES)
    if loose:
        raise InputError(f"{folder / loose[0]} is in no class folder; put each image into the folder of its class.")
    if not names:
        raise InputError(f"{folder} has no class folders; give a folder that holds a folder of images for each class.")
    if known is None and len(names) == 1:
        raise InputError(f"{folder} has only one class, {names[0]!r}; a classifier needs at least two.")
    for name in names:
        if name not in (known or names):
            raise InputError(f"{folder / name}: the training images have no class {name!r}; add it or remove this one.")
    return names


def _class_files(folder: Path) -> list[tuple[str, _Stat]]:
    files = []
    for entry in _visible(folder):
        if entry.is_dir():
            raise InputError(f"{entry.path} is a folder in the folder of a class, which may hold images only; move it.")
        if not entry.is_file():  # a broken link or, worse, a pipe
            raise InputError(f"{entry.path} is not a file that can be read; replace or remove it.")
        files.append((entry.name, _stat(entry)))
    if not files:
        raise InputError(f"{folder}: the class {folder.name!r} has no images; add some or remove the folder.")
    return sorted(files)


def _stat(file: os.DirEntry[str]) -> _Stat:
    """Size and times; zeros for what is no readable file, which reading will name."""
    try:
        stat = file.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _NO_DATA]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); check its permissions.") from None


def _subfolders(folder: Path) -> list[os.DirEntry[str]]:
    return [entry for entry in _visible(folder) if entry.is_dir()]


# --- decoded once ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Survey:
    """What the files hold, as far as it decides on their pixels."""

    content: str
    """SHA-256 of all files' names and bytes."""
    size: int
    """Side of the decoded images."""
    chosen: bool
    """Whether neither the user nor the images say what ``size`` has to be."""

    @property
    def entry(self) -> str:
        """Name of the pixels in the cache."""
        return hashlib.sha256(f"{_FORMAT} {self.size} {self.content}".encode()).hexdigest()


def _pixels(listing: Listing, requested: int | None, console: Console | None) -> tuple[np.ndarray, bool]:
    """(N, 3, S, S) uint8 of all files, and whether S had to be chosen."""
    cache = _Cache(listing, requested)
    survey = known = cache.recall()
    if survey is None:
        survey = _examine(listing, requested, console)
    pixels = cached = cache.load(survey)
    if pixels is None:
        with progress(console, f"decoding {listing.root}", len(listing.names)) as advance:
            pixels = decode_images(listing.paths, listing.paths, survey.size, lambda done: advance(done, None))
        if scan(listing.root) != listing:
            raise InputError(f"{listing.root}: files changed while they were read; try again when they are complete.")
    try:
        if cached is None:
            cache.store(survey, pixels)
        if known is None:
            cache.remember(survey)
    except OSError as error:  # a full disk, say, spoils nothing but the next start's speed
        if console is not None:
            console.print(f"The decoded images cannot be kept: {error}.", markup=False, highlight=False)
    return pixels, survey.chosen


def _examine(listing: Listing, requested: int | None, console: Console | None) -> _Survey:
    """Reads all files once, for their content's hash and, where no size is requested, their sizes."""
    paths = listing.paths

    def work(index: int) -> tuple[bytes, tuple[int, int] | None]:
        try:
            raw = read(paths[index])
            return hashlib.sha256(raw).digest(), None if requested else header(raw).size
        except BadImage:  # decoding will meet it again and name it
            return bytes(32), None

    with progress(console, f"reading {listing.root}", len(paths)) as advance:
        found = in_threads(work, len(paths), lambda done: advance(done, None))
    content = hashlib.sha256()
    for name, (digest, _) in zip(listing.names, found, strict=True):
        content.update(hashlib.sha256(os.fsencode(name)).digest() + digest)
    sizes = {size for _, size in found}
    width, height = next(iter(sizes)) or (0, 0)
    alike = len(sizes) == 1 and 0 < width == height <= _LARGEST_OWN_SIZE
    own = width if alike else _DEFAULT_SIZE
    return _Survey(content.hexdigest(), requested or own, chosen=not (requested or alike))


class _Cache:
    """Decoded pixels on disk, and for a folder the survey that was true when its files had certain sizes and times.

    Every file is complete or absent, and is checked when it is read; nothing in it is ever executed. Two processes that
    decode the same folder at once do the work twice and write the same.
    """

    def __init__(self, listing: Listing, requested: int | None) -> None:
        root = cache_dir()
        place = f"{listing.root.absolute()} {requested}"
        self.record = root / "folders" / f"{hashlib.sha256(os.fsencode(place)).hexdigest()}.json"
        self.images = root / "images"
        self.count = len(listing.names)
        state = json.dumps([listing.names, listing.stats])
        self.state = hashlib.sha256(state.encode()).hexdigest()

    def recall(self) -> _Survey | None:
        """What was found when the files were last examined, if they have not changed since."""
        state, survey = _read_record(self.record)
        return survey if state == self.state else None

    def remember(self, survey: _Survey) -> None:
        """Makes :meth:`recall` return ``survey``, and deletes the pixels that its predecessor alone referred to."""
        _, before = _read_record(self.record)
        self.record.parent.mkdir(parents=True, exist_ok=True)
        content = {"state": self.state, "survey": asdict(survey), "entry": survey.entry}
        write_atomic(self.record, json.dumps(content))
        used = {known.entry for _, known in map(_read_record, self.record.parent.glob("*.json")) if known}
        if before and before.entry not in used:
            (self.images / before.entry).unlink(missing_ok=True)

    def load(self, survey: _Survey) -> np.ndarray | None:
        """The pixels (N, 3, S, S) uint8; None if they are not there or damaged."""
        shape = (self.count, 3, survey.size, survey.size)
        try:
            with (self.images / survey.entry).open("rb") as file:
                if os.fstat(file.fileno()).st_size != 32 + math.prod(shape):
                    return None
                digest, pixels = file.read(32), np.empty(shape, dtype=np.uint8)
                file.readinto(pixels.data)
        except OSError:
            return None
        return pixels if hashlib.sha256(pixels.data).digest() == digest else None

    def store(self, survey: _Survey, pixels: np.ndarray) -> None:
        """Makes :meth:`load` return ``pixels``."""
        self.images.mkdir(parents=True, exist_ok=True)
        for stale in self.images.glob(".*.tmp"):  # of processes that were killed while they wrote
            with suppress(FileNotFoundError):
                if time.time() - stale.stat().st_mtime > 86_400:
                    stale.unlink()
        with atomic_path(self.images / survey.entry) as temporary, temporary.open("wb") as file:
            file.write(hashlib.sha256(pixels.data).digest())
            file.write(pixels.data)


def _read_record(path: Path) -> tuple[str, _Survey | None]:
    """State and survey of a record; ("", None) if it is missing or damaged."""
    try:
        record = json.loads(path.read_bytes())
        survey = _Survey(**record["survey"])
        return (str(record["state"]), survey) if record["entry"] == survey.entry else ("", None)
    except (OSError, ValueError, TypeError, KeyError):
        return "", None
