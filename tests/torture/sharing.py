"""Several processes in one place: trainers, searches, studies, and readers meanwhile."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.areas import Result
from tests.torture.judge import Judgement, difference, last_lines, of_end
from tests.torture.sandbox import Child, Ended, run
from tests.torture.worlds import make_data, plain, results, searching, studying, training

_JOBS: dict[str, Callable[[], Callable[[], None]]] = {"run": training, "search": searching, "study": studying}
_LIMIT = 120.0


class Sharing:
    """See the module."""

    name, goal, share = "concurrency", 30, 0.05

    def prepare(self, folder: Path) -> None:
        """Lets each job end alone."""
        self.folder = folder
        make_data(folder)
        self.alone: dict[str, Any] = {}
        for name, job in _JOBS.items():
            ended = run(job(), folder, _LIMIT)
            if ended.status != 0:
                raise RuntimeError(f"{name} fails alone: {ended}")
            self.alone[name] = results(folder / name)

    def trial(self, index: int, random_: random.Random, folder: Path) -> Result | None:
        """Two to four processes, and readers until they end; then whoever was refused tries again.

        In each fourth trial somebody deletes the locks of the runs meanwhile.
        """
        shutil.copytree(self.folder / "data", folder / "data")
        name, count, deleting = list(_JOBS)[index % 3], random_.randint(2, 4), index % 4 == 3
        what = f"{count} processes in one {name}, read meanwhile" + (", its locks deleted" if deleting else "")
        children = []
        for _ in range(count):
            children.append(Child(_JOBS[name](), folder))
            children[-1].is_running(random_.uniform(0, 0.15))
        readings = []
        while any(child.is_running() for child in children):
            arguments = random_.choice((("report", name, "--out", "r.json", "--json"), ("runs", name, "--json")))
            readings.append(run(plain(*arguments), folder, _LIMIT))
            for lock in (folder / name).rglob(".lock") if deleting else ():
                lock.unlink(missing_ok=True)
        ended = [child.wait(_LIMIT) for child in children]
        again = run(_JOBS[name](), folder, _LIMIT)
        judgement = _judge(ended, readings, again, name, folder, self.alone[name], refusable=deleting)
        return Result(what, 1, ((what, judgement),))


def _judge(
    ended: list[Ended],
    readings: list[Ended],
    again: Ended,
    name: str,
    folder: Path,
    alone: Any,
    *,
    refusable: bool,
) -> Judgement:
    for child in (*ended, *readings, again):
        if failure := of_end(child):
            return failure
    done = sum(child.status == 0 for child in ended)
    enough = refusable or done == len(ended) or (name == "run" and done > 0)
    if again.status != 0 or not enough:
        said = " / ".join(last_lines(child.err, 1) for child in ended)
        return Judgement("differs", f"{done} of {len(ended)} ended well: {said}")
    if (found := results(folder / name)) != alone:
        return Judgement("differs", difference(alone, found))
    return Judgement("identical")
