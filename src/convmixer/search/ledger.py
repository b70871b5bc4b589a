"""What the run directories of a search say: which combinations have ended, how, and what they are worth."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from convmixer.config import RunConfig
from convmixer.errors import InputError
from convmixer.runs import EpochRecord, Outcome, RunDir, Summary
from convmixer.search.pool import RunPool
from convmixer.search.space import Number, SearchConfig, Values


class Ledger:
    """The runs of a search in the directory ``out``."""

    def __init__(self, base: RunConfig, settings: SearchConfig, out: Path) -> None:
        self.base, self.settings, self.out = base, settings, out
        self.pool = RunPool(out)
        self.space = settings.space()
        self._planned: dict[tuple[Number, ...], list[RunConfig]] = {}
        self._ended: dict[RunConfig, Summary] = {}

    def configs(self, values: Values, seeds: int | None = None) -> list[RunConfig]:
        """The runs of a combination, ``trial_seeds`` unless said otherwise."""
        count = self.settings.trial_seeds if seeds is None else seeds
        key = (count, *(values[dimension.name] for dimension in self.space))
        if key not in self._planned:
            self._planned[key] = [self.base.replace(**values, seed=self.base.seed + i) for i in range(count)]
        return self._planned[key]

    def summary(self, config: RunConfig) -> Summary | None:
        """How a run ended, or None. What is read once is remembered, so that test figures may be missing."""
        if config not in self._ended and (summary := self.pool.summary(config)):
            self._ended[config] = summary
        return self._ended.get(config)

    def state(self, values: Values) -> Outcome | None:
        """How a combination ended, by its run directories; None if it did not yet."""
        summaries = [self.summary(config) for config in self.configs(values)]
        for summary in summaries:
            if summary is None or summary.status != "finished":
                return summary.status if summary else None
        return "finished"

    def accuracy(self, values: Values) -> float:
        """Mean validation accuracy of a finished combination's runs."""
        summaries = [self.summary(config) for config in self.configs(values)]
        return statistics.fmean(s.val_accuracy for s in summaries if s and s.val_accuracy is not None)

    def values_on_disk(self) -> list[Values]:
        """The combinations that have a run directory, the oldest first."""
        found = []
        for folder in (self.out / "runs").glob("*/"):
            try:
                config = RunDir.existing(folder).config()
                environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
            except (InputError, OSError, ValueError):
                continue  # killed before it began
            while environment.get("earlier"):
                (environment,) = environment["earlier"]
            flat = config.identity()
            values = {dimension.name: flat[dimension.name] for dimension in self.space}
            if self.contains(values) and self.pool.path(self.configs(values)[0]) == folder:
                found.append((environment["started"], folder.name, values))
        return [values for *_, values in sorted(found, key=lambda row: row[:2])]

    def contains(self, values: Values) -> bool:
        """Whether a combination is in the space."""
        return all(dimension.contains(values.get(dimension.name)) for dimension in self.space)

    def relative(self, config: RunConfig) -> str:
        """A run's directory from that of the search."""
        return self.pool.path(config).relative_to(self.out).as_posix()

    def epochs(self, values: Values) -> list[EpochRecord]:
        """The finished epochs of a combination's first run, which a pruner judges."""
        return RunDir(self.pool.path(self.configs(values)[0])).metrics()
