"""Kills at random moments and at every file operation, storms of signals: the resumed result has to be the same."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.areas import Result
from tests.torture.judge import of_resumption
from tests.torture.operations import killing_at, watch
from tests.torture.sandbox import Child, run
from tests.torture.worlds import make_data, results, searching, studying, training

_JOBS: dict[str, Callable[[], Callable[[], None]]] = {"run": training, "search": searching, "study": studying}
_LIMIT = 120.0


class Kills:
    """See the module."""

    name, goal, share = "kills", 300, 0.19

    def prepare(self, folder: Path) -> None:
        """Lets each job end undisturbed, counting its file operations."""
        self.folder = folder
        make_data(folder)
        self.undisturbed: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.points: list[tuple[str, int]] = []
        for name, job in _JOBS.items():
            place = folder / name
            shutil.copytree(folder / "data", place / "data")
            ended = run(_counted(job(), place / name), place, _LIMIT)
            if ended.status != 0:
                raise RuntimeError(f"{name} fails undisturbed: {ended}")
            self.undisturbed[name], self.seconds[name] = results(place / name), ended.seconds
            count = len((place / "operations.txt").read_text().splitlines())
            self.points += [(name, number) for number in range(1, count + 1)]
        random.Random(0).shuffle(self.points)

    def trial(self, index: int, random_: random.Random, folder: Path) -> Result | None:
        """Two of three at a file operation, until each was tried; the others at a random moment, or signals."""
        shutil.copytree(self.folder / "data", folder / "data")
        crash = index % 3 < 2 and index // 3 * 2 + index % 3 < len(self.points)
        if crash:
            name, number = self.points[index // 3 * 2 + index % 3]
            what = f"{name}, killed at file operation {number}"
            first = run(_killed(_JOBS[name](), folder / name, number), folder, _LIMIT)
        else:
            name = random_.choice(list(_JOBS))
            how = random_.choice(("SIGKILL", "SIGKILL", "SIGKILL", "storm", "STOP/CONT"))
            what = f"{name}, {how}"
            first = self._signalled(name, how, random_, folder)
        last = run(_JOBS[name](), folder, _LIMIT)
        found = results(folder / name) if last.status == 0 else None
        return Result(what, 1, ((what, of_resumption(first, last, found, self.undisturbed[name])),))

    def _signalled(self, name: str, how: str, random_: random.Random, folder: Path) -> Any:
        child = Child(_JOBS[name](), folder)
        if how == "SIGKILL":
            child.is_running(random_.uniform(0, self.seconds[name]))
            child.kill()
        elif how == "storm":
            child.is_running(random_.uniform(0.2, 1) * self.seconds[name])
            for _ in range(40):
                child.kill(random_.choice((signal.SIGINT, signal.SIGTERM)))
                child.is_running(random_.uniform(0, 0.02))
        else:
            for _ in range(6):
                child.is_running(random_.uniform(0, self.seconds[name] / 6))
                child.kill(signal.SIGSTOP)
                time.sleep(random_.uniform(0, 0.05))
                child.kill(signal.SIGCONT)
        return child.wait(_LIMIT)


def _counted(job: Callable[[], None], place: Path) -> Callable[[], None]:
    record = place.parent / "operations.txt"

    def react(count: int, kind: str, path: str) -> None:
        lines.append(f"{kind} {path}")

    lines: list[str] = []

    def execute() -> None:
        watch(place, react)
        try:
            job()
        finally:
            record.write_text("\n".join(lines))

    return execute


def _killed(job: Callable[[], None], place: Path, number: int) -> Callable[[], None]:
    def execute() -> None:
        watch(place, killing_at(number))
        job()

    return execute
