"""Images decoded once and then read from a cache.

The cache never decides what the data are: an entry is named after the content of all files, and it is used only if its
checksum is right. What spares the reading of the files is a record of their sizes and times.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convmixer.data.image_files import Stat
from convmixer.data.images import BadImage, decode_images, header, in_threads, read
from convmixer.errors import InputError
from convmixer.files import atomic_path, cache_dir, make_cache_dir, open_regular, read_bytes, write_atomic
from convmixer.runtime.progress import progress

if TYPE_CHECKING:
    from rich.console import Console

LARGEST_OWN_SIZE = 224
_DEFAULT_SIZE = 64
_FORMAT = 1  # of cache entries: change it whenever the same files would give other pixels


@dataclass(frozen=True)
class Files:
    """Image files of a folder."""

    root: Path
    names: tuple[str, ...]
    """Paths relative to ``root``, with slashes."""
    stats: tuple[Stat, ...]

    @property
    def paths(self) -> list[Path]:
        """Where the files are."""
        return [self.root / name for name in self.names]


@dataclass(frozen=True)
class Survey:
    """What the files hold, as far as it decides on their pixels."""

    content: str
    """SHA-256 of all files' names and bytes."""
    size: int
    """Side of the decoded images."""
    chosen: bool
    """Whether neither the user nor the images say what ``size`` has to be."""
    bad: tuple[tuple[int, str], ...] = ()
    """Index of each file that is no whole image, and a half sentence that says why; only where they are skipped."""

    @property
    def entry(self) -> str:
        """Name of the pixels in the cache."""
        skipped = "".join(f" {index}" for index, _ in self.bad)  # their pixels are 0
        return hashlib.sha256(f"{_FORMAT} {self.size} {self.content}{skipped}".encode()).hexdigest()


def decoded_pixels(
    files: Files, requested: int | None, console: Console | None, *, skip_bad: bool, unchanged: Callable[[], bool]
) -> tuple[np.ndarray, Survey]:
    """Decodes all files, or reads what an earlier call decoded.

    Args:
        files: what to decode.
        requested: side S of the images; by default their own, or one that is chosen.
        console: where to show progress, and that the cache cannot be written.
        skip_bad: leave the pixels of files that are no whole images 0, and list these files in the survey.
        unchanged: tells at the end whether the files are still what they were.

    Returns:
        (N, 3, S, S) uint8, and what was found.

    Raises:
        InputError: files that are no whole images, or that change meanwhile.
    """
    cache = _Cache(files, requested, skip_bad=skip_bad)
    survey = known = cache.recall()
    if survey is None:
        survey = _examine(files, requested, console, skip_bad=skip_bad)
    # Which files are bad is found by decoding: only a record knows it without.
    pixels = cached = cache.load(survey) if known or not skip_bad else None
    if pixels is None:
        bad: dict[int, str] = {}
        with progress(console, f"decoding {files.root}", len(files.names)) as advance:
            pixels = decode_images(
                files.paths, files.paths, survey.size, lambda done: advance(done, None), bad if skip_bad else None
            )
        survey = replace(survey, bad=tuple(sorted(bad.items())))
        if not unchanged():
            raise InputError(f"{files.root}: files changed while they were read; try again when they are complete.")
    try:
        if cached is None:
            cache.store(survey, pixels)
        if known != survey:
            cache.remember(survey)
    except OSError as error:  # a full disk, say, spoils nothing but the next start's speed
        if console is not None:
            console.print(f"The decoded images cannot be kept: {error}.", markup=False, highlight=False)
    return pixels, survey


def _examine(files: Files, requested: int | None, console: Console | None, *, skip_bad: bool) -> Survey:
    """Reads all files once, for their content's hash and, where no size is requested, their sizes."""
    paths = files.paths

    def work(index: int) -> tuple[bytes, tuple[int, int] | None]:
        try:
            raw = read(paths[index])
            return hashlib.sha256(raw).digest(), None if requested else header(raw).size
        except BadImage:  # decoding will meet it again and name it
            return bytes(32), None

    with progress(console, f"reading {files.root}", len(paths)) as advance:
        found = in_threads(work, len(paths), lambda done: advance(done, None))
    content = hashlib.sha256()
    for name, (digest, _) in zip(files.names, found, strict=True):
        content.update(hashlib.sha256(os.fsencode(name)).digest() + digest)
    sizes = {size for _, size in found if size or not skip_bad}
    width, height = next(iter(sizes), None) or (0, 0)
    alike = len(sizes) == 1 and 0 < width == height <= LARGEST_OWN_SIZE
    own = width if alike else _DEFAULT_SIZE
    return Survey(content.hexdigest(), requested or own, chosen=not (requested or alike))


class _Cache:
    """Decoded pixels on disk, and for a folder the survey that was true when its files had certain sizes and times.

    Every file is complete or absent, and is checked when it is read; nothing in it is ever executed. Two processes that
    decode the same folder at once do the work twice and write the same.
    """

    def __init__(self, files: Files, requested: int | None, *, skip_bad: bool) -> None:
        root = cache_dir()
        place = f"{files.root.absolute()} {requested}{' skip' if skip_bad else ''}"
        self.record = root / "folders" / f"{hashlib.sha256(os.fsencode(place)).hexdigest()}.json"
        self.images = root / "images"
        self.count = len(files.names)
        state = json.dumps([files.names, files.stats])
        self.state = hashlib.sha256(state.encode()).hexdigest()

    def recall(self) -> Survey | None:
        """What was found when the files were last examined, if they have not changed since."""
        state, survey = _read_record(self.record)
        return survey if state == self.state else None

    def remember(self, survey: Survey) -> None:
        """Makes :meth:`recall` return ``survey``, and deletes the pixels that its predecessor alone referred to."""
        _, before = _read_record(self.record)
        make_cache_dir()
        self.record.parent.mkdir(exist_ok=True)
        content = {"state": self.state, "survey": asdict(survey), "entry": survey.entry}
        write_atomic(self.record, json.dumps(content | {"sha256": _record_digest(self.record, content)}))
        used = {known.entry for _, known in map(_read_record, self.record.parent.glob("*.json")) if known}
        if before and before.entry not in used:
            (self.images / before.entry).unlink(missing_ok=True)

    def load(self, survey: Survey) -> np.ndarray | None:
        """The pixels (N, 3, S, S) uint8; None if they are not there or damaged."""
        shape = (self.count, 3, survey.size, survey.size)
        try:
            with open_regular(self.images / survey.entry) as file:
                if os.fstat(file.fileno()).st_size != 32 + math.prod(shape):
                    return None
                digest, pixels = file.read(32), np.empty(shape, dtype=np.uint8)
                file.readinto(pixels.data)
        except OSError:
            return None
        return pixels if _digest(survey, pixels) == digest else None

    def store(self, survey: Survey, pixels: np.ndarray) -> None:
        """Makes :meth:`load` return ``pixels``."""
        make_cache_dir()
        self.images.mkdir(exist_ok=True)
        for stale in self.images.glob(".*.tmp"):  # of processes that were killed while they wrote
            with suppress(FileNotFoundError):
                if time.time() - stale.stat().st_mtime > 86_400:
                    stale.unlink()
        with atomic_path(self.images / survey.entry) as temporary, temporary.open("wb") as file:
            file.write(_digest(survey, pixels))
            file.write(pixels.data)


def _digest(survey: Survey, pixels: np.ndarray) -> bytes:
    """Of the pixels and of what they are stored as: those of another folder are not taken for them."""
    digest = hashlib.sha256(survey.entry.encode() + b"\n")
    digest.update(pixels.data)
    return digest.digest()


def _record_digest(path: Path, content: dict[str, Any]) -> str:
    return hashlib.sha256(f"{path.name} {json.dumps(content, sort_keys=True)}".encode()).hexdigest()


def _read_record(path: Path) -> tuple[str, Survey | None]:
    """State and survey of a record; ("", None) if it is missing or damaged."""
    try:
        record = json.loads(read_bytes(path))
        if record.pop("sha256") != _record_digest(path, record):
            return "", None
        values = dict(record["survey"])
        survey = Survey(**values | {"bad": tuple((int(index), str(reason)) for index, reason in values.get("bad", ()))})
        return (str(record["state"]), survey) if record["entry"] == survey.entry else ("", None)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "", None
