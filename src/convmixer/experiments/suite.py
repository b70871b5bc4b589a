"""Runs experiments: seed after seed, resumable, shared between processes, with a record of what belongs together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from convmixer.config import DataConfig, RunConfig
from convmixer.errors import InputError
from convmixer.experiments.definition import Experiment, PlannedRow, Profile, Search, base_config, plan
from convmixer.experiments.progress import StudyProgress
from convmixer.manifest import MARK, Manifest, read_record
from convmixer.records import parse_json
from convmixer.runs import Summary
from convmixer.runtime.terminal import Terminal
from convmixer.search.grid_search import grid_search
from convmixer.search.pool import RunCrashedError, RunPool
from convmixer.search.space import SearchConfig


@dataclass(frozen=True, kw_only=True)
class Study:
    """Where experiments happen, on what, and how large they are."""

    out: Path
    profile_name: str
    profile: Profile
    seeds: int
    """Runs of each row, with seeds from 0."""
    data: DataConfig
    common: dict[str, Any] = field(default_factory=dict)
    """Further fields that all runs share, such as ``device``."""
    command: tuple[str, ...] = ()
    """The line that repeats it."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"--seeds: {self.seeds} is out of range; give at least 1.")

    @property
    def dataset(self) -> str:
        """The data's name without the way to it, as in ``summary.json``."""
        kind, colon, path = self.data.dataset.partition(":")
        return kind + colon + Path(path).resolve().name if colon else kind


class Suite:
    """Experiments as parts of one study.

    Raises:
        InputError: an impossible configuration, or ``study.out`` holds an experiment of another study.
    """

    def __init__(
        self, study: Study, experiments: Iterable[Experiment | Search], console: Console | None = None
    ) -> None:
        self.study, self.console = study, console or Terminal(quiet=True)
        self.pool = RunPool(study.out)
        self.rows: dict[str, list[PlannedRow]] = {}
        self.searches = []
        records = {}
        for experiment in experiments:
            if isinstance(experiment, Search):
                self.searches.append(experiment)
                continue
            rows = plan(experiment, study.profile, study.seeds, study.data, **study.common)
            self.rows[experiment.name] = rows
            records[self._path(experiment.name)] = self._record(experiment, rows)
        for path, record in records.items():
            _check_same_study(path, record)
        if records:
            manifest = Manifest(study.out / "experiments")
            manifest.folder.mkdir(parents=True, exist_ok=True)
            manifest.remove_leftovers()
            texts = {path.name: json.dumps(r | MARK, indent=2, allow_nan=False) + "\n" for path, r in records.items()}
            manifest.write(texts)

    def run(self) -> list[RunCrashedError]:
        """Trains what is missing, all rows with one seed before the next seed, then searches; returns what crashed.

        Raises:
            InputError: impossible configuration for these data.
            Interrupted: SIGINT or SIGTERM arrived; a checkpoint was written.
        """
        names = self._in_rounds()
        missing = [config for config in names if not self._complete(config)]
        if len(missing) < len(names):
            self._say(f"{len(names) - len(missing)} of {len(names)} runs are there already.")
        if missing:
            self.pool.dataset(missing[0], self.console)
        crashes: list[RunCrashedError] = []
        with StudyProgress(self.console, missing) as progress:
            for number, (config, answer) in enumerate(self.pool.run_all(missing, report=progress.epoch), 1):
                if isinstance(answer, RunCrashedError):
                    crashes.append(answer)
                self._say(f"{number}/{len(missing)}  {names[config]}, seed {config.seed}: {_outcome(answer)}")
                progress.ended(config)
        for _ in self.searches:
            try:
                self._search()
            except RunCrashedError as crash:
                crashes.append(crash)
        return crashes

    def _search(self) -> None:
        study = self.study
        base = base_config(study.profile, study.data, **study.common)
        settings = SearchConfig(values=study.profile.grid, seeds=study.seeds)
        dataset = self.pool.dataset(base, self.console)
        grid_search(base, settings, study.out, command=study.command, dataset=dataset, console=self.console)

    def _in_rounds(self) -> dict[RunConfig, str]:
        """The runs in the order in which they are trained, each with the first experiment and row that need it."""
        names: dict[RunConfig, str] = {}
        for seed in range(self.study.seeds):
            for name, rows in self.rows.items():
                for row in rows:
                    names.setdefault(row.runs[seed], f"{name}: {row.label}")
        return names

    def _complete(self, config: RunConfig) -> bool:
        """Whether a run has ended, and its test set was read: searches leave that to their winners."""
        summary = self.pool.summary(config)
        return summary is not None and (summary.status != "finished" or summary.test_accuracy is not None)

    def _path(self, name: str) -> Path:
        return self.study.out / "experiments" / f"{name}.json"

    def _record(self, experiment: Experiment, rows: Sequence[PlannedRow]) -> dict[str, Any]:
        study = self.study
        return {
            "name": experiment.name,
            "question": experiment.question,
            "profile": study.profile_name,
            "dataset": study.dataset,
            "base": rows[0].label,
            "seeds": list(range(study.seeds)),
            "command": list(study.command),
            "rows": [
                {
                    "label": row.label,
                    "changes": row.changes,
                    "published": asdict(row.published) if row.published else None,
                    "runs": [
                        {"seed": run.seed, "path": self.pool.path(run).relative_to(study.out).as_posix()}
                        for run in row.runs
                    ],
                }
                for row in rows
            ],
        }

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)


def _check_same_study(path: Path, record: dict[str, Any]) -> None:
    content = read_record(path)
    if content is None:
        return
    try:
        old = parse_json(content, str(path))
        differences = [
            f"{key} {old[key]}, not {record[key]}" for key in ("profile", "dataset") if old[key] != record[key]
        ]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: is not an experiment's record ({error}); choose another --out.") from None
    if differences:
        raise InputError(f"{path}: holds this experiment with {' and '.join(differences)}; choose another --out.")


def _outcome(answer: Summary | RunCrashedError) -> str:
    if isinstance(answer, RunCrashedError) or answer.test_accuracy is None:
        return str(answer) if isinstance(answer, RunCrashedError) else f"diverged: {answer.message}"
    return f"test {answer.test_accuracy:.2%}, {answer.epoch_seconds or 0:.1f} s/epoch"
