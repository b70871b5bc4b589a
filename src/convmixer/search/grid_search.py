"""Searching the fields of a run: every combination of a grid, or what a sampler draws; then the winner over seeds.

Combinations are compared by accuracy on held-out training images. Only the winner's runs read the test set, once.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import statistics
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from convmixer.config import RunConfig
from convmixer.data import Dataset
from convmixer.errors import InputError, Interrupted
from convmixer.runs import Summary, TrialRecord, default_path
from convmixer.runtime.environment import without_passwords
from convmixer.runtime.signals import Interruption
from convmixer.search.search import Search
from convmixer.search.space import Choice, Number, SearchConfig, Values, describe

_CHECK_SECONDS = 0.2
_BAD_INPUT = 2  # exit status of a worker whose message is in the queue


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    records: list[TrialRecord]
    winner: Values | None
    """None if no run finished."""
    runs: list[Summary]
    """The winner's, one for each seed, with test figures."""


@dataclass(frozen=True)
class Marginal:
    """What one value of a field is worth, whatever the other fields are."""

    name: str
    value: Number
    runs: int
    """Finished ones."""
    mean: float | None
    """Of their validation accuracies."""
    best: float | None


def default_search_path(base: RunConfig, settings: SearchConfig, *, root: Path = Path("results/grid_search")) -> Path:
    """A name that says what is searched; the same search has the same one, so that it goes on where it was."""
    first = {dimension.name: dimension.ends()[0] for dimension in settings.space()}
    name = default_path(base.replace(**first), root=root).name
    kind = settings.sampler if settings.pruner == "none" else f"{settings.sampler}-{settings.pruner}"
    return root / f"{name}-{'-'.join(first)}-{kind}"


def grid_search(
    base: RunConfig,
    settings: SearchConfig,
    out: str | Path,
    *,
    command: Sequence[str] | None = None,
    dataset: Dataset | None = None,
    console: Console | None = None,
) -> SearchResult:
    """Trains every combination, then the best one over seeds; leaves run directories and ``grid_search.json``.

    A search that was interrupted, however, goes on when it is called again; what has ended is not repeated. Several
    processes, on several machines if these share ``out`` and the storage, share the work.

    Args:
        base: the run that the searched fields are varied in.
        settings: what to vary, and how.
        out: the search directory.
        command: what the records name as their origin; the command line of this process by default.
        dataset: the runs' data, where the caller has them; loaded otherwise. Not for more than one worker.
        console: where a line about every trial is shown; nowhere by default.

    Raises:
        InputError: a value that a run cannot have, a storage that cannot be used, a directory with another search.
        Interrupted: SIGINT or SIGTERM arrived; the runs that were trained left checkpoints.
    """
    search = _part(base, settings, Path(out), command or without_passwords(sys.argv), dataset, console)
    try:
        if settings.workers > 1:
            _run_workers(base, settings, Path(out), console)
        search.work()  # with workers there is something left only if one of them died
        search.crown()
    finally:
        search.leave()
    return SearchResult(search.records(), search.best(), search.winner_summaries())


def marginals(records: Sequence[TrialRecord], settings: SearchConfig) -> list[Marginal]:
    """For each listed value of each searched field, the runs that had it."""
    rows = []
    for dimension in settings.space():
        for value in dimension.values if isinstance(dimension, Choice) else ():
            of_value = [r for r in records if r.values[dimension.name] == value and r.state == "finished"]
            found = [r.val_accuracy for r in of_value if r.val_accuracy is not None]
            mean, best = (statistics.fmean(found), max(found)) if found else (None, None)
            rows.append(Marginal(dimension.name, value, len(found), mean, best))
    return rows


def tables(result: SearchResult, settings: SearchConfig, title: str) -> list[Table]:
    """For people: all runs, the best first; what each listed value is worth; the winner over seeds."""
    names = [dimension.name for dimension in settings.space()]
    runs = Table(*names, "seed", "val accuracy", "epoch", "state", "run", title=title)
    for record in sorted(result.records, key=lambda record: -(record.val_accuracy or 0.0)):
        seconds = "–" if record.epoch_seconds is None else f"{record.epoch_seconds:.1f} s"
        figures = (str(record.seed), _percent(record.val_accuracy), seconds, record.state, Path(record.path).name)
        runs.add_row(*(f"{record.values[name]:.6g}" for name in names), *figures)
    worth = Table("field", "value", "finished runs", "mean val accuracy", "best")
    for row in marginals(result.records, settings):
        worth.add_row(row.name, f"{row.value:.6g}", str(row.runs), _percent(row.mean), _percent(row.best))
    if result.winner is None:
        return [runs, worth]
    winner = Table("seed", "val accuracy", "test accuracy", title=f"winner: {describe(result.winner)}")
    for run in result.runs:
        winner.add_row(str(run.seed), _percent(run.val_accuracy), _percent(run.test_accuracy))
    tested = [run.test_accuracy for run in result.runs if run.test_accuracy is not None]
    if len(tested) > 1:
        winner.add_row("mean ± sd", "", f"{statistics.fmean(tested):.2%} ± {100 * statistics.stdev(tested):.2f}")
    return [runs, worth, winner]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _part(
    base: RunConfig,
    settings: SearchConfig,
    out: Path,
    command: Sequence[str],
    dataset: Dataset | None,
    console: Console | None,
) -> Search:
    shown = console or Console(quiet=True)
    return Search(
        base,
        settings,
        out,
        command=command,
        dataset=dataset,
        tell=lambda line: shown.print(line, highlight=False, markup=False),
    )


def _run_workers(base: RunConfig, settings: SearchConfig, out: Path, console: Console | None) -> None:
    """Has ``settings.workers`` processes search, until each of them finds nothing left to do.

    They are spawned, not forked: a process that has used a GPU cannot be forked.
    """
    context = multiprocessing.get_context("spawn")
    complaints: SimpleQueue[str] = context.SimpleQueue()
    threads = max(1, torch.get_num_threads() // settings.workers)
    arguments = (base, settings, out, threads, complaints, console is None or console.quiet)
    processes = [context.Process(target=_worker, args=arguments) for _ in range(settings.workers)]
    with Interruption.watched() as interruption:
        try:
            for process in processes:
                process.start()
            while running := [process for process in processes if process.is_alive()]:
                multiprocessing.connection.wait([process.sentinel for process in running], timeout=_CHECK_SECONDS)
                interruption.check()
                if any(process.exitcode == _BAD_INPUT for process in processes):
                    raise InputError(complaints.get())
        finally:
            _stop(processes)
    died = [process.exitcode for process in processes if process.exitcode]
    if died and console is not None:
        console.print(f"{len(died)} of {len(processes)} worker processes died (status {died[0]}).", style="yellow")


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Has the processes write their checkpoints, and waits for that."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        if process.pid is not None:
            process.join()


def _worker(
    base: RunConfig, settings: SearchConfig, out: Path, threads: int, complaints: SimpleQueue[str], quiet: bool
) -> None:
    """The main function of a worker process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    console = Console(stderr=True, soft_wrap=True, quiet=quiet)
    try:
        search = _part(base, settings, out, without_passwords(sys.argv), None, console)
        try:
            search.work()
            search.train_best()
        finally:
            search.leave()
    except InputError as error:
        complaints.put(str(error))
        sys.exit(_BAD_INPUT)
    except Interrupted as stop:
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _end_with_parent() -> None:
    """Sends this process a SIGTERM when its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
