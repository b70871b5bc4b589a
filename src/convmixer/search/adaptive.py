"""Search by TPE, or with a pruner: Optuna proposes points, judges epochs, and keeps processes from claiming the same.

A process that is alone makes Optuna's trials anew from the run directories: its storage may be lost or damaged. A trial
whose process died is taken over by another one.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import optuna
from optuna.trial import Trial, TrialState

from convmixer.errors import InputError, Interrupted
from convmixer.files import write_atomic
from convmixer.runs import EpochRecord, Outcome, RunDir
from convmixer.search.pool import RunCrashedError
from convmixer.search.sampling import distributions, points_up_front, pruner, sampler
from convmixer.search.search import ALONE, Search
from convmixer.search.space import Values
from convmixer.search.storage import close_storage, open_storage, start_anew
from convmixer.training.observers import EpochWatcher

_POLL_SECONDS = 0.2
_WORST = 0.0  # what a diverged run is worth to TPE


@dataclass(frozen=True)
class _Claim:
    """A point that this process trains."""

    trial: Trial
    number: int
    values: Values


class AdaptiveSearch(Search):
    """A search whose points or lengths of runs depend on results."""

    def _begin(self, alone: bool) -> None:
        name, url = self._study_name(alone), self.settings.storage
        judge = pruner(self.settings)
        if alone:
            self.storage = start_anew(url, self.out, name)
            self.study = optuna.create_study(study_name=name, storage=self.storage, direction="maximize", pruner=judge)
            self._fill()
        else:
            self.storage = open_storage(url, self.out)
            self.study = optuna.load_study(study_name=name, storage=self.storage, pruner=judge)

    def _study_name(self, alone: bool) -> str:
        """What the study is called in a storage that it may share with others; made up by the first process."""
        name = self._private_text("name")
        if not re.fullmatch(r"[\w-]{1,100}", name):
            if not alone:
                raise InputError(f"{self.private / 'name'}: is damaged; {ALONE}.")
            name = f"convmixer-{secrets.token_hex(8)}"
            write_atomic(self.private / "name", name)
        return name

    def leave(self) -> None:
        """Ends this process's part."""
        super().leave()
        close_storage(self.storage)

    def _fill(self) -> None:
        """Gives the empty study every known point: first those with a result, then those that are to be tried."""
        waiting = []
        for number, values in self._known_points():
            outcome = self.outcome(values)
            if outcome in (None, "failed"):
                waiting.append((number, values))
                continue
            claim = self._ask(number, values)
            for record in RunDir(self.pool.path(self.configs(values)[0])).metrics():
                self._report(claim, record)
            self._conclude(claim, outcome)
        for number, values in waiting:
            self._enqueue(number, values)

    def _known_points(self) -> Iterator[tuple[int, Values]]:
        if self.settings.sampler != "tpe":
            yield from points_up_front(self.settings, self.base.seed, self.known).items()
            return
        yield from self.known.items()
        unlisted = [values for values in self._points_on_disk() if values not in self.known.values()]
        yield from enumerate(unlisted, max(self.known, default=-1) + 1)

    def _points_on_disk(self) -> list[Values]:
        """The points that have a run directory, the oldest first."""
        found = []
        for folder in (self.out / "runs").glob("*/"):
            try:
                run = RunDir.existing(folder)
                flat, environment = run.config().identity(), run.environment()
                while environment.get("earlier"):
                    (environment,) = environment["earlier"]
                started = environment["started"]
            except (InputError, KeyError):
                continue  # killed before it began
            values = {dimension.name: flat[dimension.name] for dimension in self.space}
            if self.contains(values) and self.pool.path(self.configs(values)[0]) == folder:
                found.append((started, folder.name, values))
        return [values for *_, values in sorted(found, key=lambda row: row[:2])]

    def points(self) -> dict[int, Values]:
        """The points of all trials in Optuna's storage."""
        trials = self.study.get_trials(deepcopy=False)
        points = {t.user_attrs["number"]: t.user_attrs["values"] for t in trials if "number" in t.user_attrs}
        return dict(sorted(points.items()))

    # Trials

    def work(self) -> None:
        """As :meth:`Search.work`."""
        while claim := self._claim():
            try:
                self._train(claim)
                outcome: Outcome = self.outcome(claim.values) or "failed"
            except RunCrashedError as error:
                self.log(str(error))
                outcome = "failed"
            except Interrupted:
                with self.lock:
                    self.study.tell(claim.trial, state=TrialState.FAIL)
                    self._enqueue(claim.number, claim.values)
                self.write()
                raise
            with self.lock:
                self._conclude(claim, outcome)
            self._trial_ended(claim.values, outcome)

    def _claim(self) -> _Claim | None:
        """The next point for this process, or None if all are done; waits while others train the last ones."""
        while True:
            with self.lock:
                self._take_over()
                if (number := self._next_number()) is not None:
                    return self._ask(number)
                if not self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    return None
            time.sleep(_POLL_SECONDS)

    def _take_over(self) -> None:
        """Puts back the trials whose processes are gone."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            attributes = trial.user_attrs
            if not self.processes.is_alive(attributes.get("process", "")):
                self.study.tell(trial.number, state=TrialState.FAIL)
                if "number" in attributes:  # else its process died while it drew, and the same will be drawn again
                    self._enqueue(attributes["number"], attributes["values"])

    def _next_number(self) -> int | None:
        """The number of the next trial, waiting or to be drawn, or None if there is none."""
        trials = self.study.get_trials(deepcopy=False)
        if waiting := [t.user_attrs["number"] for t in trials if t.state is TrialState.WAITING]:
            return int(waiting[0])
        numbers = {int(t.user_attrs["number"]) for t in trials if "number" in t.user_attrs}
        return max(numbers, default=-1) + 1 if len(numbers) < self.settings.count() else None

    def _ask(self, number: int, values: Values | None = None) -> _Claim:
        """Claims the trial with these values, else the one that waits first, else draws one."""
        if values is not None:
            self._enqueue(number, values)
        self.study.sampler = sampler(self.base.seed, number)
        trial = self.study.ask(distributions(self.space))
        trial.set_user_attr("process", self.processes.name)
        if "number" not in trial.user_attrs:
            trial.set_user_attr("values", dict(trial.params))
            trial.set_user_attr("number", number)
        return _Claim(trial, int(trial.user_attrs["number"]), dict(trial.user_attrs["values"]))

    def _enqueue(self, number: int, values: Values) -> None:
        self.study.enqueue_trial(values, user_attrs={"number": number, "values": values})

    def _train(self, claim: _Claim) -> None:
        first, *others = self.configs(claim.values)

        def watch(record: EpochRecord) -> str | None:
            if record.epoch == 1:  # the records name runs that have begun
                self.write()
            if self._report(claim, record) and record.epoch < first.train.epochs:
                return f"after epoch {record.epoch}, with a validation accuracy of {record.val_accuracy:.2%}"
            return None

        observer = EpochWatcher(watch)
        summary = self.pool.run(first, dataset=self.dataset, test=False, observer=observer, keep_pruned=True)
        for config in others:
            if summary.status == "finished":
                summary = self.pool.run(config, dataset=self.dataset, test=False)

    def _report(self, claim: _Claim, record: EpochRecord) -> bool:
        """Tells Optuna of an epoch; returns whether it would end the run."""
        if self.settings.pruner == "none" or record.val_accuracy is None:
            return False
        claim.trial.report(record.val_accuracy, record.epoch)
        return claim.trial.should_prune()

    def _conclude(self, claim: _Claim, outcome: Outcome | None) -> None:
        if outcome == "finished":
            self.study.tell(claim.trial, self.accuracy(claim.values))
        elif outcome == "diverged":
            self.study.tell(claim.trial, _WORST)
        else:
            self.study.tell(claim.trial, state=TrialState.PRUNED if outcome == "pruned" else TrialState.FAIL)
