"""``manifest.json``: the SHA-256 of every record in a directory, so that nothing else is taken for it.

Records are the files that results are read from; checkpoints, which carry a digest of their own, and pictures are not.
A record is replaced in three steps, each of which leaves a whole file: the manifest allows the old content and the new
one, the record changes, the manifest allows the new one alone. A kill in between is no damage.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convmixer.errors import InputError
from convmixer.files import NotRegularError, file_lock, open_regular, write_atomic

NAME = "manifest.json"
MARK: dict[str, Any] = {"manifest": True}
"""What ``environment.json``, ``grid_search.json`` and records of experiments say: a manifest was written with them."""

_RECORD = re.compile(
    r"(config|dataset|environment|init|teacher|summary|trackers|grid_search|evaluation_.*)\.json|metrics\.jsonl"
    r"|model\.safetensors",
    re.DOTALL,
)
_OF_RUNS = {"config.json", "summary.json", "metrics.jsonl"}
_EXPERIMENTS = "experiments"  # a folder in which every JSON file is a record
_MARKED = b'"manifest": true'
_LOCK = ".manifest.lock"

_Content = tuple[str, int]
"""SHA-256 in hexadecimal, size in bytes."""
_Allowed = dict[str, list[_Content | None]]
"""By name, what a record may be; None for not there."""


@dataclass
class Verification:
    """What the records of a directory are, by name."""

    folder: Path
    sealed: bool
    """Whether there is a manifest; earlier versions wrote none, and nothing can be said of their records."""
    whole: list[str] = field(default_factory=list)
    """As they were written; without a manifest, all that are there."""
    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Records that are not in the manifest."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each file that is not as it was written."""


class Manifest:
    """The manifest of a directory. Every record is written and read through it.

    Args:
        folder: the directory.
        check: is called before each change, and raises if it is not to be made.
    """

    def __init__(self, folder: str | Path, check: Callable[[], None] = lambda: None) -> None:
        self.folder = Path(folder)
        self.path = self.folder / NAME
        self._check = check

    def read(self, name: str) -> bytes | None:
        """The content of a record, or of any other file; None if it is not there and need not be.

        Raises:
            InputError: it is not what was written, is missing, or cannot be read; or the manifest is damaged.
        """
        while True:
            before = self._bytes()
            problem, content = self._checked(name, self._parsed(before))
            if not problem:
                return content
            if before == self._bytes():  # else it was replaced meanwhile
                raise InputError(problem)

    def has(self, name: str) -> bool:
        """Whether a record is there, without reading it. Raises InputError if it is missing or should not be."""
        there = (self.folder / name).exists()
        allowed = self._parsed(self._bytes())
        if there and (allowed is None or name in allowed):
            return True
        if not there and (allowed is None or None in allowed.get(name, [None])):
            return False
        return self.read(name) is not None

    def write(self, contents: Mapping[str, str | bytes], *, again_soon: bool = False) -> None:
        """Replaces records, each whole or not at all.

        Args:
            contents: by name; text is written as UTF-8.
            again_soon: the old content, too, stays allowed until the next change, which saves a third of the time.

        Raises:
            OSError: the directory cannot be written.
            InputError: it cannot be locked, or the manifest is damaged.
        """
        new = {
            name: content.encode(errors="replace") if isinstance(content, str) else content
            for name, content in contents.items()
        }
        assert all(map(self._governs, new)), list(new)
        with self._locked():
            allowed = self._begin({name: _content(content) for name, content in new.items()})
            for name, content in new.items():
                write_atomic(self.folder / name, content)
            if not again_soon:
                self._write(allowed | {name: [_content(content)] for name, content in new.items()})

    def remove(self, *names: str) -> None:
        """Removes records, as far as they are there. Raises as :meth:`write` does."""
        there = [name for name in names if (self.folder / name).exists()]
        if not there:
            return
        with self._locked():
            allowed = self._begin(dict.fromkeys(there))
            for name in there:
                (self.folder / name).unlink(missing_ok=True)
            self._write({name: contents for name, contents in allowed.items() if name not in there})

    def verify(self) -> Verification:
        """Compares every record with the manifest."""
        while True:
            before = self._bytes()
            result = self._verification(before)
            if not result.problems or before == self._bytes():
                return result

    def accept(self) -> None:
        """Makes a new manifest of the records that are there now. Raises OSError if it cannot be written."""
        with self._locked():
            self._write(self._present())

    def remove_leftovers(self) -> None:
        """Removes temporary files that a killed process left; those of a process that writes now are not among them."""
        if leftovers := [path for path in self.folder.glob(".*.tmp") if not path.is_dir()]:
            with self._locked():
                for path in leftovers:
                    path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = file_lock(self.folder / _LOCK)
        try:
            lock.acquire()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.folder / _LOCK}: cannot be written or locked ({reason}).") from None
        try:
            self._check()  # not earlier: acquiring makes a directory that has vanished anew
            yield
        finally:
            lock.release()

    def _begin(self, new: Mapping[str, _Content | None]) -> _Allowed:
        """Allows ``new`` beside what the records are; returns the manifest as it is without ``new``.

        The first change in a directory of an earlier version takes up the records that are there.
        """
        allowed = self._parsed(self._bytes())
        allowed = self._present() if allowed is None else self._settled(allowed)
        self._write(allowed | {name: [*allowed.get(name, [None]), content] for name, content in new.items()})
        return allowed

    def _settled(self, allowed: _Allowed) -> _Allowed:
        """Drops what records no longer are, where several contents are allowed."""
        result: _Allowed = {}
        for name, contents in allowed.items():
            if len(contents) > 1:
                raw = _read(self.folder / name)
                now = None if raw is None else _content(raw)
                contents = [now] if now in contents else contents
            if contents != [None]:
                result[name] = contents
        return result

    def _present(self) -> _Allowed:
        return {name: [_content(_read(self.folder / name) or b"")] for name in self._names()}

    def _names(self) -> list[str]:
        """The records that are there."""
        return sorted(file.name for file in self.folder.iterdir() if self._governs(file.name) and file.is_file())

    def _governs(self, name: str) -> bool:
        if self.folder.name == _EXPERIMENTS and name.endswith(".json") and name != NAME:
            return True
        return _RECORD.fullmatch(name) is not None

    def _write(self, allowed: _Allowed) -> None:
        files = {
            name: [None if content is None else {"sha256": content[0], "size": content[1]} for content in contents]
            for name, contents in sorted(allowed.items())
        }
        write_atomic(self.path, json.dumps({"files": files, "sha256": _digest(files)}, indent=1) + "\n")

    def _bytes(self) -> bytes | None:
        return _read(self.path)

    def _parsed(self, raw: bytes | None) -> _Allowed | None:
        """What a manifest allows; None if there is none."""
        if raw is None:
            return None
        try:
            content = json.loads(raw)
            if content["sha256"] != _digest(content["files"]):
                raise ValueError("its checksum does not match")
            return {
                name: [None if one is None else (one["sha256"], one["size"]) for one in contents]
                for name, contents in content["files"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{self.path}: is damaged; restore it, or if the files beside it are right, {self._accept()}."
            ) from None

    def _checked(self, name: str, allowed: _Allowed | None) -> tuple[str, bytes | None]:
        """What is wrong with a file, or ''; and its content."""
        path, content = self.folder / name, _read(self.folder / name)
        if allowed is None:
            return self._lost(content), content
        if not self._governs(name):
            return "", content
        if name not in allowed:
            if content is None:
                return "", None
            return (
                f"{path}: is not one of the files that were written here ({NAME} does not name it); remove it, or if "
                f"it belongs here, {self._accept()}."
            ), content
        now = None if content is None else _content(content)
        if now in allowed[name]:
            return "", content
        what = (
            "is missing; restore it, or if it is not needed"
            if content is None
            else "is not what was written (it was edited or damaged); restore it, or if the edit was meant"
        )
        return f"{path}: {what}, {self._accept()}.", content

    def _lost(self, content: bytes | None) -> str:
        """Says that there was a manifest, if a record without one tells so."""
        environment = self.folder / "environment.json"
        if any(_MARKED in (raw or b"") for raw in (content, _read(environment) if environment.is_file() else None)):
            return (
                f"{self.path}: is missing, though the files beside it were written with one; restore it, or if they "
                f"are right, {self._accept()}."
            )
        return ""

    def _accept(self) -> str:
        return f"convmixer verify {shlex.quote(str(self.folder))} --accept"

    def _verification(self, raw: bytes | None) -> Verification:
        result = Verification(self.folder, sealed=raw is not None)
        names = self._names()
        try:
            allowed = self._parsed(raw)
        except InputError as error:
            result.problems.append(str(error))
            result.changed.append(NAME)
            result.unknown += names
            return result
        for name in sorted({*names, *(allowed or {})}):
            try:
                problem, content = self._checked(name, allowed)
            except InputError as error:
                problem, content = str(error), b""
            if not problem:
                result.whole += [name] if content is not None else []
                continue
            kind = "missing" if content is None else "unknown" if name not in (allowed or {}) else "changed"
            getattr(result, kind).append(name)
            result.problems += [problem] if problem not in result.problems else []
        return result


def read_record(path: Path) -> bytes | None:
    """The content of a file, checked against the manifest of its directory, if there is one; see Manifest.read."""
    return Manifest(path.parent).read(path.name)


def is_run(folder: Path, names: Iterable[str]) -> bool:
    """Whether a directory, with files of these names, is a run's: also one that has lost its ``config.json``."""
    names = set(names)
    if is_pretrained(folder, names):
        return False
    return bool(_OF_RUNS & names) or names_record(folder, names, "config.json")


def is_pretrained(folder: Path, names: Iterable[str] = ()) -> bool:
    """Whether a directory holds a model in the layout of Hugging Face's hub, which has a ``config.json`` as runs do.

    Args:
        folder: the directory.
        names: of the files in it, if they are known.
    """
    names = set(names) or ({path.name for path in folder.iterdir()} if folder.is_dir() else set())
    if _OF_RUNS & names != {"config.json"} or names & {NAME, "dataset.json"}:
        return False
    with suppress(InputError):
        return b'"pretrained_cfg"' in (_read(folder / "config.json") or b"")
    return False


def names_record(folder: Path, names: Iterable[str], record: str) -> bool:
    """Whether a directory, with files of these names, has a manifest that names a record, which may be lost."""
    try:
        return NAME in names and f'"{record}"'.encode() in (_read(folder / NAME) or b"")
    except InputError:
        return False


def holds_records(folder: Path, names: Iterable[str]) -> bool:
    """Whether a directory, with files of these names, is one that has, or could have, a manifest."""
    return any(name == NAME or Manifest(folder)._governs(name) for name in names)


def _read(path: Path) -> bytes | None:
    """A regular file's content, or None. Raises InputError if it is something else or cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NotRegularError:
        raise InputError(f"{path}: is not a regular file; restore it.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from None


def _content(raw: bytes) -> _Content:
    return hashlib.sha256(raw).hexdigest(), len(raw)


def _digest(files: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
