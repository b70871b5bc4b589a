"""Searching the fields of a run: every combination of a grid, or sampled points; then the winner over seeds.

Points are compared by accuracy on held-out training images. Only the winner's runs read the test set, once.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from convmixer.config import RunConfig
from convmixer.data import Dataset
from convmixer.runs import Summary, TrialRecord, default_path
from convmixer.runtime.environment import without_passwords
from convmixer.runtime.terminal import Terminal
from convmixer.search.adaptive import AdaptiveSearch
from convmixer.search.listed import ListedSearch
from convmixer.search.processes import run_workers
from convmixer.search.search import Search
from convmixer.search.space import Choice, SearchConfig, Value, Values, with_values
from convmixer.training.sizes import few_steps_hint


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
    """Validation accuracies at one value of a field, whatever the other fields are."""

    name: str
    value: Value
    runs: int
    """Finished ones."""
    mean: float | None
    best: float | None


def default_search_path(base: RunConfig, settings: SearchConfig, *, root: Path = Path("results/grid_search")) -> Path:
    """A name that says what is searched; the same search has the same one, and continues in it."""
    first = {dimension.name: dimension.ends()[0] for dimension in settings.space()}
    name = default_path(with_values(base, first), root=root).name
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
    """Trains every point, then the best one over seeds; leaves run directories and ``grid_search.json``.

    A search that was interrupted continues when it is called again; what has ended is not repeated. Several processes,
    on several machines if these share ``out`` and the storage, share the work.

    Args:
        base: the run that the searched fields are varied in.
        settings: what to vary, and how.
        out: the search directory.
        command: what the records name as their origin; the command line of this process by default.
        dataset: the runs' data, if already loaded. Not for more than one worker.
        console: where a line about every trial is shown; nowhere by default.

    Raises:
        InputError: a value that a run cannot have, a storage that cannot be used, a directory with another search.
        RunCrashedError: a run of the winner ended with an error.
        Interrupted: SIGINT or SIGTERM arrived; the runs that were trained left checkpoints.
    """
    console = console or Terminal(quiet=True)
    command = command or without_passwords(sys.argv)
    with open_search(base, settings, Path(out), command, dataset, console) as search:
        for hint in _hints(search, console):
            console.print(hint, style="yellow", highlight=False, markup=False)
        died = []
        if settings.workers > 1:
            threads = max(1, torch.get_num_threads() // settings.workers)
            arguments = (base, settings, Path(out), command, threads, console.quiet)
            if died := run_workers(settings.workers, _work, arguments):
                text = f"{len(died)} of {settings.workers} worker processes died (status {died[0]})."
                console.print(text, style="yellow", highlight=False, markup=False)
        if settings.workers == 1 or died:
            search.work()
        search.test_best()
        return SearchResult(search.records(), search.best(), search.winner_summaries())


def marginals(records: Sequence[TrialRecord], settings: SearchConfig) -> list[Marginal]:
    """For each listed value of each searched field, the finished runs with it."""
    rows = []
    for dimension in settings.space():
        for value in dimension.values if isinstance(dimension, Choice) else ():
            of_value = [r for r in records if r.values[dimension.name] == value and r.state == "finished"]
            found = [r.val_accuracy for r in of_value if r.val_accuracy is not None]
            mean, best = (statistics.fmean(found), max(found)) if found else (None, None)
            rows.append(Marginal(dimension.name, value, len(found), mean, best))
    return rows


def open_search(
    base: RunConfig,
    settings: SearchConfig,
    out: Path,
    command: Sequence[str] = (),
    dataset: Dataset | None = None,
    console: Console | None = None,
) -> Search:
    """This process's part in the search in ``out``; only TPE and pruners need Optuna's storage."""
    shown = console or Terminal(quiet=True)
    kind = AdaptiveSearch if settings.is_adaptive else ListedSearch
    return kind(
        base,
        settings,
        out,
        command=command,
        dataset=dataset,
        log=lambda line: shown.print(line, highlight=False, markup=False),
    )


def _hints(search: Search, console: Console) -> list[str]:
    """What training would say to the user about points that are left, or about the ends of ranges."""
    ends = [{d.name: end} for d in search.space for end in d.ends()] if search.settings.sampler == "tpe" else []
    points = [values for values in search.points().values() if search.outcome(values) is None]
    configs = [search.configs(values)[0] for values in points + ends]
    if not configs:
        return []
    info = (search.dataset or search.pool.dataset(search.base, console)).info
    return list(dict.fromkeys(hint for config in configs if (hint := few_steps_hint(config, info))))


def _work(
    base: RunConfig, settings: SearchConfig, out: Path, command: Sequence[str], threads: int, quiet: bool
) -> None:
    """What a worker process does."""
    torch.set_num_threads(threads)
    console = Terminal(stderr=True, soft_wrap=True, quiet=quiet)
    with open_search(base, settings, out, command, None, console) as search:
        search.work()
        search.test_best()
