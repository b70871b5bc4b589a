"""Areas by worker processes, within their time."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.torture.areas import Area, Result, generator, indices
from tests.torture.record import Tally
from tests.torture.sandbox import remove

WORKERS = 2


def run_area(area: Area, seed: int, seconds: float, root: Path, most: int | None = None) -> Tally:
    """Makes trials of an area for so many seconds, in two processes; for half as long again if its goal is not reached.

    Args:
        area: what to try.
        seed: what it follows from.
        seconds: of trials.
        root: an empty folder.
        most: trials at most; by default no limit.
    """
    tally, begin = Tally(area.name, area.goal), time.monotonic()
    if missing := getattr(area, "missing", ""):
        tally.skipped[missing] += 1
        return tally
    (root / "prepared").mkdir()
    area.prepare(root / "prepared")
    for worker, line in _from_workers(lambda worker: _work(area, seed, seconds, root, worker, most)):
        _count(tally, seed, json.loads(line), worker)
    tally.seconds = time.monotonic() - begin
    tally.failures.sort(key=lambda failure: str(failure["index"]))
    return tally


def run_one(area: Area, seed: int, index: int, root: Path) -> Result | None:
    """Makes one trial again."""
    (root / "prepared").mkdir()
    area.prepare(root / "prepared")
    (root / "trial").mkdir()
    return area.trial(index, generator(seed, area.name, index), root / "trial")


def _work(area: Area, seed: int, seconds: float, root: Path, worker: int, most: int | None) -> Iterator[dict[str, Any]]:
    begin, tried = time.monotonic(), 0
    for index in indices(worker, WORKERS):
        passed = time.monotonic() - begin
        if passed > seconds * (1 if tried * WORKERS >= area.goal else 1.5) or (most is not None and index >= most):
            return
        folder = root / f"trial-{index}"
        folder.mkdir()
        try:
            result = area.trial(index, generator(seed, area.name, index), folder)
        except Exception:  # of the harness
            yield {"index": index, "what": "the harness", "tried": 0, "broken": traceback.format_exc()[-1500:]}
            continue
        finally:
            remove(folder)
        if result is None:
            return
        tried += result.tried
        judgements = [[what, judgement.verdict, judgement.detail] for what, judgement in result.judgements]
        yield {"index": index, "what": result.what, "tried": result.tried, "judgements": judgements}


def _count(tally: Tally, seed: int, line: dict[str, Any], worker: int) -> None:
    from tests.torture.judge import SURVIVED

    repeat = f"python -m tests.torture --area {tally.area} --seed {seed} --only {line['index']}"
    judgements = line.get("judgements") or []
    if broken := line.get("broken"):
        judgements = [["the harness itself", "harness", broken]]
    tally.trials += 1
    tally.tried += line["tried"]
    bad = 0
    for what, verdict, detail in judgements:
        tally.verdicts[verdict] += 1
        if verdict not in SURVIVED:
            bad += 1
            failure = {"what": what, "verdict": verdict, "detail": detail, "index": line["index"], "repeat": repeat}
            tally.failures.append(failure)
    if line["tried"] > len(judgements):
        tally.verdicts["handled"] += line["tried"] - bad


def _from_workers(work: Callable[[int], Iterator[dict[str, Any]]]) -> Iterator[tuple[int, str]]:
    """The lines of all workers as they come."""
    reading, writing = os.pipe()
    workers = []
    for worker in range(WORKERS):
        if (pid := os.fork()) == 0:
            status = 1
            try:
                for line in work(worker):
                    os.write(writing, json.dumps(line, default=str)[:60_000].encode() + b"\n")
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        workers.append(pid)
    os.close(writing)
    try:
        with os.fdopen(reading, encoding="utf-8") as lines:
            for text in lines:
                yield 0, text
    finally:
        for pid in workers:
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
