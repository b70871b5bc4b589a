"""A search directory as one process sees it: its points, their runs, and ``grid_search.json``.

The run directories under ``runs`` are the ledger: they alone say what was done. Subclasses choose points and share them
between processes: :mod:`convmixer.search.listed`, :mod:`convmixer.search.adaptive`.
"""

from __future__ import annotations

import abc
import functools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from convmixer.config import RunConfig
from convmixer.data import Dataset
from convmixer.errors import InputError
from convmixer.files import file_lock, read_bytes, write_atomic
from convmixer.manifest import MARK, Manifest
from convmixer.records import parse_json
from convmixer.runs import Outcome, RunDir, Summary, TrialRecord, config_differences
from convmixer.search.pool import RunCrashedError, RunPool
from convmixer.search.processes import ActiveProcesses
from convmixer.search.space import SearchConfig, Values, with_values
from convmixer.utils.formatting import settings

RECORDS = "grid_search.json"
ALONE = "stop the other processes of this search and start it again: its run directories are enough to go on"
"""What to do where processes cannot share a search any longer."""


class Search(abc.ABC):
    """One process's part in a search; to be left with :meth:`leave`, or used in a ``with`` statement.

    Args:
        base: the run that the searched fields are varied in.
        settings: what to vary, and how.
        out: the search directory.
        command: what to write into the records as the command they come from.
        dataset: the runs' data, if already loaded.
        log: is called with a line about every trial.

    Raises:
        InputError: a value that a run cannot have, a storage that cannot be used, a directory with another search.
    """

    def __init__(
        self,
        base: RunConfig,
        settings: SearchConfig,
        out: Path,
        *,
        command: Sequence[str] = (),
        dataset: Dataset | None = None,
        log: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.base, self.settings, self.out = base, settings.check(base), out
        self.command, self.dataset, self.log = list(command), dataset, log
        self.space = settings.space()
        self.pool = RunPool(out)
        self.winner: dict[str, Any] | None = None
        self._ended: dict[RunConfig, Summary] = {}
        if (out / "config.json").exists():
            raise InputError(f"{out}: is a run directory; choose another --out for the search.")
        self.private = out / ".search"
        try:
            self.private.mkdir(parents=True, exist_ok=True)
            self.processes = ActiveProcesses(self.private / "processes")
        except OSError as error:
            raise InputError(
                f"{out}: cannot be written to ({error.strerror or error}); choose another --out."
            ) from None
        self.known = self._read_points()
        self.lock = file_lock(self.private / "lock")
        with self.lock:
            alone = self.processes.join()
            try:
                self._check_space(alone)
                Manifest(out).remove_leftovers()
                self._begin(alone)
            except BaseException:
                self.processes.leave()
                raise
        self._started, self._done_before = time.monotonic(), self._done()

    @abc.abstractmethod
    def _begin(self, alone: bool) -> None:
        """Takes up the search; ``alone`` says whether no other process works on it."""

    @abc.abstractmethod
    def points(self) -> dict[int, Values]:
        """All points that are known so far, by number, in order."""

    @abc.abstractmethod
    def work(self) -> None:
        """Trains points until all are done, by this process or by others.

        Raises:
            InputError: a run that is impossible with these data.
            Interrupted: SIGINT or SIGTERM arrived; the run that was trained left a checkpoint.
        """

    def leave(self) -> None:
        """Ends this process's part."""
        self.processes.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    # What was done before

    def _read_points(self) -> dict[int, Values]:
        """The points in ``grid_search.json`` that are in the space; nothing if it is missing or damaged.

        Raises:
            InputError: it belongs to another search.
        """
        try:
            old = parse_json(Manifest(self.out).read(RECORDS) or b"", str(self.out / RECORDS))
            points = {int(row["number"]): dict(row["values"]) for row in old["trials"]}
            base = RunConfig.from_dict(old["config"])
            options = [(name, old[name]) for name in ("sampler", "pruner", "trial_seeds")]
        except (OSError, ValueError, KeyError, TypeError) as error:
            if (self.out / RECORDS).exists():
                self.log(f"{self.out / RECORDS}: is made anew from the run directories ({error}).")
            return {}
        first = {dimension.name: dimension.ends()[0] for dimension in self.space}
        differences = [config_differences(with_values(base, first), with_values(self.base, first))]
        differences += [f"{n} {v} → {new}" for n, v in options if v != (new := getattr(self.settings, n))]
        if changed := ", ".join(filter(None, differences)):
            raise InputError(
                f"{self.out}: holds another search ({changed}); leave these as they were, or choose another --out."
            )
        return {number: values for number, values in sorted(points.items()) if self.contains(values)}

    def _check_space(self, alone: bool) -> None:
        """Raises InputError if the processes that work in the directory search something else."""
        space, file = json.dumps({d.name: d.to_json() for d in self.space}), self.private / "space.json"
        if alone:
            write_atomic(file, space)
        elif self._private_text("space.json") != space:
            raise InputError(f"{self.out}: another process searches other values in it; choose another --out.")

    def _private_text(self, name: str) -> str:
        """The content of a file of these processes' own; '' if it is missing or damaged."""
        try:
            return read_bytes(self.private / name).decode()
        except ValueError:
            return ""

    def contains(self, values: Mapping[str, Any]) -> bool:
        """Whether a point is in the space."""
        return all(dimension.contains(values.get(dimension.name)) for dimension in self.space)

    # Runs

    def configs(self, values: Values, seeds: int | None = None) -> list[RunConfig]:
        """The runs of a point: ``trial_seeds`` unless said otherwise."""
        count = self.settings.trial_seeds if seeds is None else seeds
        return [_config(self.base, self.base.seed + i, *values.items()) for i in range(count)]

    def summary(self, config: RunConfig) -> Summary | None:
        """How a run ended, or None. What is read once is remembered; test metrics may be missing from it."""
        if config not in self._ended and (summary := self.pool.summary(config)):
            self._ended[config] = summary
        return self._ended.get(config)

    def run_outcome(self, config: RunConfig) -> Outcome | None:
        """How a run ended, or that it began; None if it did not."""
        if summary := self.summary(config):
            return summary.status
        run = RunDir(self.pool.path(config))
        if run.error():
            return "failed"
        return "running" if (run.path / "config.json").exists() else None

    def outcome(self, values: Values) -> Outcome | None:
        """How a point ended, by its run directories; None if it did not yet."""
        for config in self.configs(values):
            state = self.run_outcome(config)
            if state != "finished":
                return None if state == "running" else state
        return "finished"

    def accuracy(self, values: Values) -> float:
        """Mean validation accuracy of a finished point's runs."""
        summaries = [self.summary(config) for config in self.configs(values)]
        return statistics.fmean(s.val_accuracy for s in summaries if s and s.val_accuracy is not None)

    # Results

    def records(self) -> list[TrialRecord]:
        """A record of each run of each point that was begun."""
        rows = []
        for number, values in self.points().items():
            for config in self.configs(values):
                if (state := self.run_outcome(config)) is None:
                    continue
                summary = self.summary(config)
                rows.append(
                    TrialRecord(
                        number=number,
                        values=values,
                        seed=config.seed,
                        path=self._relative(config),
                        state=state,
                        val_accuracy=summary.val_accuracy if summary else None,
                        epoch_seconds=summary.epoch_seconds if summary else None,
                    )
                )
        return rows

    def best(self) -> Values | None:
        """The finished point with the highest mean validation accuracy, the first of equals."""
        finished = [values for values in self.points().values() if self.outcome(values) == "finished"]
        return max(finished, key=self.accuracy, default=None)

    def test_best(self) -> None:
        """Trains the best point over its seeds, reads the test set for these runs only, and completes the records.

        Raises:
            RunCrashedError: a run ended with an error that is neither bad input nor a signal.
            InputError, Interrupted: as :meth:`work`.
        """
        for _, answer in self.pool.run_all(self._winner_configs(), dataset=self.dataset):
            if isinstance(answer, RunCrashedError):
                raise answer
        if values := self.best():
            runs = [{"seed": config.seed, "path": self._relative(config)} for config in self._winner_configs()]
            self.winner = {"values": values, "runs": runs}
        self.write()

    def winner_summaries(self) -> list[Summary]:
        """The final figures of the winner's runs, with those of the test set."""
        return [summary for config in self._winner_configs() if (summary := self.pool.summary(config))]

    def _winner_configs(self) -> list[RunConfig]:
        values = self.best()
        return self.configs(values, self.settings.seeds) if values else []

    def write(self) -> None:
        """Writes ``grid_search.json`` from the run directories."""
        with self.lock:
            content = {
                "name": "grid_search",
                "space": {dimension.name: dimension.to_json() for dimension in self.space},
                "sampler": self.settings.sampler,
                "pruner": self.settings.pruner,
                "trial_seeds": self.settings.trial_seeds,
                "dataset": self.base.data.dataset,
                "command": self.command,
                "config": self.base.to_dict(),
                "trials": [asdict(record) for record in self.records()],
                "winner": self.winner,
            }
            Manifest(self.out).write({RECORDS: json.dumps(content | MARK, indent=2, allow_nan=False) + "\n"})

    def _relative(self, config: RunConfig) -> str:
        return self.pool.path(config).relative_to(self.out).as_posix()

    def _done(self) -> int:
        return sum(self.outcome(values) is not None for values in self.points().values())

    def _trial_ended(self, values: Values, outcome: Outcome) -> None:
        """Writes the records, and logs a line about a point that has ended."""
        self.write()
        done, total = self._done(), self.settings.count()
        result = f"val {self.accuracy(values):.2%}" if outcome == "finished" else outcome
        minutes = (time.monotonic() - self._started) / 60 / max(1, done - self._done_before) * (total - done)
        left = f", about {minutes:.0f} min left" if minutes >= 1 else ""
        self.log(f"{done} of {total}: {settings(values)}: {result}{left}")


@functools.cache
def _config(base: RunConfig, seed: int, *values: tuple[str, Any]) -> RunConfig:
    return with_values(base, {**dict(values), "seed": seed})
