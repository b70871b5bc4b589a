"""Every file of runs, searches, studies and caches, damaged or swapped: readers say so, or answer as if it were not."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.areas import Result
from tests.torture.damage import DAMAGES
from tests.torture.judge import of_reading
from tests.torture.sandbox import Ended, remove, run
from tests.torture.worlds import (
    SUBJECTS,
    choosing,
    compiler,
    essence,
    make_kernels,
    make_world,
    plain,
    results,
    searching,
    studying,
    training,
)

Reader = Callable[[], None]
_LIMIT = 10.0
_AGAIN: dict[str, Reader] = {
    "finished": training("finished"),
    "interrupted": training("interrupted"),
    "search": searching(),
    "study": studying(),
}
_CACHES = {"cache": ("images", "folders"), "kernels": ("cache",)}
"""Folders whose files are damaged as one subject; the compiled kernels and the timings lie in the cache itself."""


class Rot:
    """See the module."""

    name, goal, share = "rot", 2000, 0.45

    def prepare(self, folder: Path) -> None:
        """Makes the world, and reads it undamaged."""
        self.world = make_world(folder / "world")
        self.cases = [
            (subject, path.relative_to(self.world / subject), damage)
            for subject in SUBJECTS
            for path in sorted((self.world / subject).rglob("*"))
            if path.is_file() and path.suffix != ".png"
            for damage in DAMAGES
        ]
        make_kernels(self.world)
        self.cases += [
            (subject, path.relative_to(self.world / "cache"), damage)
            for subject, folders in _CACHES.items()
            for path in sorted((self.world / "cache").rglob("*"))
            if path.is_file() and path.parent.name in folders
            for damage in DAMAGES
        ]
        random.Random(0).shuffle(self.cases)
        self.undamaged: dict[tuple[str, str], tuple[Any, set[str]]] = {}
        for subject in (*SUBJECTS, *_CACHES):
            for reader in self._readers(subject):
                place = folder / "undamaged"
                self._copy(subject, place)
                ended = self._ended(subject, reader, place, 4 * _LIMIT)
                if ended.status != 0:
                    raise RuntimeError(f"{reader} of an undamaged {subject} fails: {ended}")
                self.undamaged[subject, reader] = self._answer(subject, reader, ended, place), _lines(ended.err)
                remove(place)

    def trial(self, index: int, random_: random.Random, folder: Path) -> Result | None:
        """Damages a file and has one or two commands read it."""
        subject, file, name = self.cases[index % len(self.cases)]
        what = f"{subject}/{file}: {name}"
        readers = self._readers(subject)
        # What goes on from the files is asked in each trial, and one of those that only look at them.
        chosen = (
            [random_.choice(readers)]
            if subject in ("finished", *_CACHES)
            else [random_.choice(readers[:2]), readers[-1]]
        )
        judgements = []
        for number, reader in enumerate(dict.fromkeys(chosen)):
            place = folder / str(number)
            self._copy(subject, place)
            damaged_file = place / ("cache" if subject in _CACHES else subject) / file
            DAMAGES[name](damaged_file, place / f"{subject}-other" / file, random.Random(index))
            damaged = _state(damaged_file)
            ended = self._ended(subject, reader, place, _LIMIT, memory=2 << 30)
            undamaged, known = self.undamaged[subject, reader]
            untouched = _state(damaged_file) == damaged
            names = {file.name, *file.parts[:-1][-1:], subject}
            answer = self._answer(subject, reader, ended, place) if not ended.hung else None
            if reader == "again" and untouched and isinstance(answer, dict):
                # Nothing was made of the damaged file, which is still what it was: all others count.
                answer, undamaged = ({k: v for k, v in x.items() if k != file.as_posix()} for x in (answer, undamaged))
            judgements.append((f"{what}, {reader}", of_reading(ended, answer, undamaged, known, names)))
            remove(place)
        worst = sorted(judgements, key=lambda pair: pair[1].survived)[:1]
        return Result(what, 1, tuple(worst))

    def _copy(self, subject: str, place: Path) -> None:
        place.mkdir()
        own = ("finished", "compiler") if subject == "kernels" else (subject, f"{subject}-other")
        for name in ("data", "picture.png", "cache", *own):
            source = self.world / name
            if source.is_dir():
                shutil.copytree(source, place / name, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy2(source, place / name)

    def _readers(self, subject: str) -> list[str]:
        from convmixer.cli.commands import COMMANDS

        verify = ["verify"] if "verify" in COMMANDS else []
        if subject == "cache":
            return ["data"]
        if subject == "kernels":
            return ["fast", "choosing"]
        if subject in ("search", "study"):
            return ["report", "runs", *verify, "again"]
        return ["predict", "evaluate", "report", "runs", *verify, "again"]

    def _ended(self, subject: str, reader: str, place: Path, timeout: float, **options: Any) -> Ended:
        environment = compiler(place) if subject == "kernels" else {}
        return run(self._reader(subject, reader), place, timeout, environment=environment, **options)

    def _reader(self, subject: str, name: str) -> Reader:
        return {
            "predict": plain("predict", subject, "picture.png", "--json", "--device", "cpu"),
            "evaluate": plain("evaluate", subject, "--json", "--device", "cpu", "--engine", "plain"),
            "report": plain("report", subject, "--out", "report.json", "--json"),
            "runs": plain("runs", subject, "--json"),
            "verify": plain("verify", subject),
            "fast": plain("evaluate", "finished", "--json", "--device", "cpu", "--engine", "fast"),
            "choosing": choosing,
            "data": plain("data", "folder:data", "--json"),
            "again": _AGAIN.get(subject, plain()),
        }[name]

    def _answer(self, subject: str, reader: str, ended: Ended, place: Path) -> Any:
        """What a reader says: its figures, or after going on the files that are there."""
        if ended.status != 0:
            return ended.status
        if reader == "again":
            try:
                return results(place / subject)
            except (OSError, ValueError, RuntimeError) as error:
                return f"unreadable afterwards: {error}"
        if reader == "verify":
            return 0
        try:
            return essence(json.loads(ended.out))
        except ValueError:
            return ended.out


def _state(path: Path) -> Any:
    """What tells whether a file was written since."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode


def _lines(text: str) -> set[str]:
    return set(text.splitlines())
