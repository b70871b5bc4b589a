"""Grid and random search: all points are known up front, and the run directories are all that processes share."""

from __future__ import annotations

from convmixer.config import RunConfig
from convmixer.runs import EpochRecord, Outcome
from convmixer.search.pool import RunCrashedError
from convmixer.search.sampling import points_up_front
from convmixer.search.search import Search
from convmixer.search.space import Values


class ListedSearch(Search):
    """A search whose points do not depend on results."""

    def _begin(self, alone: bool) -> None:
        self._points = points_up_front(self.settings, self.base.seed, self.known)

    def points(self) -> dict[int, Values]:
        """All points of the search."""
        return self._points

    def work(self) -> None:
        """As :meth:`Search.work`: the runs with the first seed, then those with the next one."""

        def report(config: RunConfig, record: EpochRecord) -> None:
            if record.epoch == 1:  # the records name runs that have begun
                self.write()

        remaining = [values for values in self._points.values() if self.outcome(values) in (None, "failed")]
        for seed in range(self.settings.trial_seeds):
            runs = {self.configs(values)[seed]: values for values in remaining}
            for config, answer in self.pool.run_all(runs, dataset=self.dataset, test=False, report=report):
                if isinstance(answer, RunCrashedError):
                    self.log(str(answer))
                outcome: Outcome = "failed" if isinstance(answer, RunCrashedError) else answer.status
                if outcome != "finished" or seed == self.settings.trial_seeds - 1:
                    self._trial_ended(runs[config], outcome)
            remaining = [values for values in remaining if self.run_outcome(self.configs(values)[seed]) == "finished"]
