"""Which files below a folder are images: one rule for data sets and for images to classify."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

Format = Literal["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Lower-case suffixes of files that have to be images; what is in them does not depend on which of these it is."""

# Suffixes of what commonly lies beside images; these files are not even opened.
_OTHER_SUFFIXES = frozenset(
    {".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".md", ".yaml", ".yml", ".html", ".npy", ".npz", ".pt", ".zip"}
)
_LEFTOVERS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"})  # of file managers
_NOT_READABLE = "is not a file that can be read"

Stat = tuple[int, int, int]
"""Size in bytes, times of last modification and change in nanoseconds."""


@dataclass(frozen=True)
class Problem:
    """What cannot be read: its path, and half a sentence that goes on after it."""

    path: str
    reason: str
    folder: bool = False


@dataclass(frozen=True)
class ImageFiles:
    """The images below a folder, and everything else there that is worth a word."""

    names: tuple[str, ...]
    """Paths relative to the folder, with slashes, in order."""
    stats: tuple[Stat, ...]
    skipped: dict[str, int]
    """How many files are no images, by their suffix."""
    problems: tuple[Problem, ...]


def find_images(folder: Path) -> ImageFiles:
    """Lists the images in a folder and in all folders below it, following links.

    A file is an image if its suffix says so or, where it has none or an unusual one, its first bytes. Hidden files and
    folders, those that macOS leaves beside others (``._name``) included, and those of file managers are ignored.
    """
    found: list[tuple[str, Stat]] = []
    skipped: Counter[str] = Counter()
    problems: list[Problem] = []

    def walk(place: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> None:
        try:
            status = place.stat()
            here = (status.st_dev, status.st_ino)
            if here in above:
                problems.append(Problem(str(place), "leads back to a folder above it; remove the link", folder=True))
                return
            entries = visible(place)
        except OSError as error:
            problems.append(unreadable_folder(place, error))
            return
        for entry in entries:
            name = prefix + entry.name
            kind = kind_of(entry)
            if kind == "folder":
                walk(place / entry.name, f"{name}/", (*above, here))
            elif kind == "image":
                found.append((name, stat_of(entry)))
            elif kind == "other":
                skipped[PurePosixPath(entry.name).suffix.lower() or "without suffix"] += 1
            else:
                problems.append(Problem(str(place / entry.name), _NOT_READABLE))

    walk(folder, "", ())
    found.sort()
    names, stats = tuple(name for name, _ in found), tuple(stat for _, stat in found)
    return ImageFiles(names, stats, dict(skipped.most_common()), tuple(problems))


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder of this name; False for names that no file can have."""
    return os.path.isdir(path)  # noqa: PTH112 (Path.is_dir raises OSError for long names)


def is_file(path: str | Path) -> bool:
    """Whether there is a file of this name; False for names that no file can have."""
    return os.path.isfile(path)  # noqa: PTH113 (as above)


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name, without hidden entries and those of file managers; raises OSError."""
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _LEFTOVERS]
    return sorted(kept, key=lambda entry: entry.name)


def kind_of(entry: os.DirEntry[str]) -> Literal["folder", "image", "other", "unreadable"]:
    """What an entry of a folder is; links are what they lead to."""
    suffix = PurePosixPath(entry.name).suffix.lower()
    try:
        if entry.is_dir():
            return "folder"
        regular = entry.is_file()
    except OSError:  # a link to itself, for one
        regular = False
    if suffix in _OTHER_SUFFIXES:
        return "other"
    if not regular:  # a broken link or, worse, a pipe
        return "unreadable"
    return "image" if suffix in IMAGE_SUFFIXES or _begins_as_image(entry) else "other"


def stat_of(entry: os.DirEntry[str]) -> Stat:
    """Size and times; zeros for what is no readable file, which reading will name."""
    try:
        status = entry.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def unreadable_folder(folder: Path, error: OSError) -> Problem:
    """The problem with a folder that cannot be listed."""
    return Problem(str(folder), f"cannot be read ({error.strerror}); check its permissions", folder=True)


_BEGINNINGS: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)


def format_of(first: bytes) -> Format | None:
    """The format of an image file by its first bytes, of which 16 are enough; None for any other file."""
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return "WEBP"
    return next((name for beginning, name in _BEGINNINGS if first.startswith(beginning)), None)


def _begins_as_image(entry: os.DirEntry[str]) -> bool:
    try:
        with Path(entry.path).open("rb") as file:
            return format_of(file.read(16)) is not None
    except OSError:
        return not PurePosixPath(entry.name).suffix  # reading will name it
