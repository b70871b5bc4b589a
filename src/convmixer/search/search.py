"""A search directory as one process sees it: claims combinations, trains them, writes ``grid_search.json``.

The run directories under ``runs`` say what was done; Optuna proposes, and keeps processes from claiming the same. A
process that finds itself alone makes Optuna's trials anew from the run directories, so that it does not matter what
became of them. One that finds another's trial, whose process is gone, takes it over.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from convmixer.config import RunConfig
from convmixer.data import Dataset
from convmixer.errors import InputError, Interrupted
from convmixer.files import write_atomic
from convmixer.runs import EpochRecord, Outcome, Summary, TrialRecord, config_differences
from convmixer.search.ledger import Ledger
from convmixer.search.pool import RunCrashedError
from convmixer.search.sampling import distributions, pruner, sampler
from convmixer.search.space import SearchConfig, Values, describe
from convmixer.search.storage import Members, close_storage, exclusive, open_storage, start_anew
from convmixer.training.observers import EpochWatcher

RECORDS = "grid_search.json"
_POLL_SECONDS = 0.2
_WORST = 0.0  # what a diverged run is worth to a sampler


@dataclass(frozen=True)
class _Claim:
    """A combination that this process is at."""

    trial: Trial
    number: int
    values: Values


class Search:
    """One process's part in a search.

    Args:
        base: the run that the searched fields are varied in.
        settings: what to vary, and how.
        out: the search directory.
        command: what to write into the records as the command they come from.
        dataset: the runs' data, where the caller has them.
        tell: is told a line about every trial.

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
        tell: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.base, self.settings, self.out = base, settings.check(base), out
        self.command, self.dataset, self.tell = list(command), dataset, tell
        self.space = settings.space()
        self.ledger = Ledger(base, settings, out)
        if (out / "config.json").exists():
            raise InputError(f"{out}: is a run directory; choose another --out for the search.")
        try:
            out.mkdir(parents=True, exist_ok=True)
            self.own = out / ".search"
            self.members = Members(self.own / "members")
        except OSError as error:
            raise InputError(
                f"{out}: cannot be written to ({error.strerror or error}); choose another --out."
            ) from None
        self.lock = exclusive(self.own / "lock")
        self.winner: dict[str, Any] | None = None
        self._known = self._read_records()
        with self.lock:
            try:
                self.study = self._join()
            except BaseException:
                self.members.leave()
                raise
        self._begun, self._done_before = time.monotonic(), self._count_done()

    # What was done before

    def _read_records(self) -> list[TrialRecord]:
        """The rows of ``grid_search.json``, if it is there and whole: they give trials their numbers, no more.

        Raises:
            InputError: it belongs to another search.
        """
        path = self.out / RECORDS
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            rows, base = [TrialRecord(**row) for row in old["trials"]], RunConfig.from_dict(old["config"])
            settings = [(name, old[name]) for name in ("sampler", "pruner", "trial_seeds")]
        except (OSError, ValueError, KeyError, TypeError, InputError):
            return []
        first = {dimension.name: dimension.ends()[0] for dimension in self.space}
        differences = [config_differences(base.replace(**first), self.base.replace(**first))]
        differences += [f"{n} {v} → {new}" for n, v in settings if v != (new := getattr(self.settings, n))]
        if changed := ", ".join(filter(None, differences)):
            raise InputError(
                f"{self.out}: holds another search ({changed}); leave these as they were, or choose another --out."
            )
        return rows

    def _join(self) -> optuna.Study:
        """The Optuna study of this directory, made anew if no other process is at it.

        Raises:
            InputError: the processes that are at it search something else.
        """
        name_file = self.own / "name"
        if not name_file.exists():
            write_atomic(name_file, f"convmixer-{secrets.token_hex(8)}")
        name, url = name_file.read_text(encoding="utf-8"), self.settings.storage
        space = {dimension.name: dimension.to_json() for dimension in self.space}
        if self.members.join():
            self.storage = start_anew(url, self.out, name)
            study = optuna.create_study(
                study_name=name, storage=self.storage, direction="maximize", pruner=pruner(self.settings)
            )
            study.set_user_attr("space", space)
            self._fill(study)
        else:
            self.storage = open_storage(url, self.out)
            study = optuna.load_study(study_name=name, storage=self.storage, pruner=pruner(self.settings))
            if study.user_attrs["space"] != space:
                raise InputError(f"{self.out}: another process searches other values in it; choose another --out.")
        return study

    def _fill(self, study: optuna.Study) -> None:
        """Gives an empty study every known combination: first those with a result, then those that are to be tried."""
        left = []
        for number, values in self._combinations():
            state = self.ledger.state(values)
            if state is None:
                left.append((number, values))
                continue
            claim = self._ask(study, number, values)
            for record in self.ledger.epochs(values):
                self._report(claim, record)
            self._conclude(study, claim, state)
        for number, values in left:
            _enqueue(study, number, values)

    def _combinations(self) -> Iterator[tuple[int, Values]]:
        """What is known to belong to this search, with its number."""
        if self.settings.sampler == "grid":
            yield from enumerate(self.settings.points())
            return
        rows = {row.number: row.values for row in self._known if self.ledger.contains(row.values)}
        yield from sorted(rows.items())
        unlisted = [values for values in self.ledger.values_on_disk() if values not in rows.values()]
        yield from enumerate(unlisted, max(rows, default=-1) + 1)

    def leave(self) -> None:
        """Ends this process's part."""
        self.members.leave()
        close_storage(self.storage)

    # Trials

    def work(self) -> None:
        """Trains combinations until all are done, by this process or by others.

        Raises:
            InputError: a run that is impossible with these data.
            Interrupted: SIGINT or SIGTERM arrived; the run that was trained left a checkpoint.
        """
        while claim := self._claim():
            try:
                self._train(claim)
                state: Outcome = self.ledger.state(claim.values) or "failed"
            except RunCrashedError as error:
                self.tell(str(error))
                state = "failed"
            except Interrupted:
                with self.lock:
                    self.study.tell(claim.trial, state=TrialState.FAIL)
                    _enqueue(self.study, claim.number, claim.values)
                    self._write()
                raise
            with self.lock:
                self._conclude(self.study, claim, state)
                self._write()
            self.tell(self._line(claim, state))

    def _claim(self) -> _Claim | None:
        """The next combination for this process, or None if all are done; waits while others are at the last ones."""
        while True:
            with self.lock:
                self._take_over()
                if (number := self._next_number()) is not None:
                    claim = self._ask(self.study, number)
                    self._write()
                    return claim
                if not self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    return None
            time.sleep(_POLL_SECONDS)

    def _take_over(self) -> None:
        """Puts back the trials whose processes are gone."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            attributes = trial.user_attrs
            if not self.members.is_alive(attributes.get("member", "")):
                self.study.tell(trial.number, state=TrialState.FAIL)
                if "number" in attributes:  # else its process died while it drew, and the same will be drawn again
                    _enqueue(self.study, attributes["number"], attributes["values"])

    def _next_number(self) -> int | None:
        """The number of the next trial, waiting or to be drawn, or None if there is none."""
        trials = self.study.get_trials(deepcopy=False)
        if waiting := [t.user_attrs["number"] for t in trials if t.state is TrialState.WAITING]:
            return int(waiting[0])
        numbers = {int(t.user_attrs["number"]) for t in trials if "number" in t.user_attrs}
        return max(numbers, default=-1) + 1 if len(numbers) < self.settings.count() else None

    def _ask(self, study: optuna.Study, number: int, values: Values | None = None) -> _Claim:
        """Claims the trial with these values, else the one that waits first, else draws one."""
        if values is not None:
            _enqueue(study, number, values)
        study.sampler = sampler(self.settings, self.base.seed, number)
        trial = study.ask(distributions(self.space))
        trial.set_user_attr("member", self.members.name)
        if "number" not in trial.user_attrs:
            trial.set_user_attr("values", dict(trial.params))
            trial.set_user_attr("number", number)
        return _Claim(trial, int(trial.user_attrs["number"]), dict(trial.user_attrs["values"]))

    def _train(self, claim: _Claim) -> None:
        first, *others = self.ledger.configs(claim.values)

        def prune(record: EpochRecord) -> str | None:
            if self._report(claim, record) and record.epoch < first.train.epochs:
                return f"after epoch {record.epoch}, with a validation accuracy of {record.val_accuracy:.2%}"
            return None

        observer = EpochWatcher(prune)
        summary = self.ledger.pool.run(first, dataset=self.dataset, test=False, observer=observer, keep_pruned=True)
        for config in others:
            if summary.status == "finished":
                summary = self.ledger.pool.run(config, dataset=self.dataset, test=False)

    def _report(self, claim: _Claim, record: EpochRecord) -> bool:
        """Tells Optuna of an epoch; returns whether it would end the run."""
        if self.settings.pruner == "none" or record.val_accuracy is None:
            return False
        claim.trial.report(record.val_accuracy, record.epoch)
        return claim.trial.should_prune()

    def _conclude(self, study: optuna.Study, claim: _Claim, state: Outcome) -> None:
        if state == "finished":
            study.tell(claim.trial, self.ledger.accuracy(claim.values))
        elif state == "diverged":
            study.tell(claim.trial, _WORST)
        else:
            study.tell(claim.trial, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)

    # Results

    def _tried(self) -> dict[int, tuple[Values, TrialState]]:
        """The combinations that were begun, by number, and what Optuna knows of them."""
        trials = self.study.get_trials(deepcopy=False)
        newest = {t.user_attrs["number"]: (t.user_attrs["values"], t.state) for t in trials if "number" in t.user_attrs}
        return {number: row for number, row in sorted(newest.items()) if row[1] is not TrialState.WAITING}

    def records(self) -> list[TrialRecord]:
        """A row for each run of each combination that was begun."""
        rows = []
        for number, (values, known) in self._tried().items():
            unended: Outcome = "failed" if known is TrialState.FAIL else "running"
            for config in self.ledger.configs(values):
                summary = self.ledger.summary(config)
                rows.append(
                    TrialRecord(
                        number=number,
                        values=values,
                        seed=config.seed,
                        path=self.ledger.relative(config),
                        state=summary.status if summary else unended,
                        val_accuracy=summary.val_accuracy if summary else None,
                        epoch_seconds=summary.epoch_seconds if summary else None,
                    )
                )
        return rows

    def best(self) -> Values | None:
        """The finished combination with the highest mean validation accuracy, the first of equals."""
        finished = [values for values, _ in self._tried().values() if self.ledger.state(values) == "finished"]
        return max(finished, key=self.ledger.accuracy, default=None)

    def train_best(self) -> None:
        """Trains the best combination over its seeds; several processes share these runs.

        Raises:
            RunCrashedError: a run ended with an error that is neither bad input nor a signal.
            InputError, Interrupted: as :meth:`work`.
        """
        if values := self.best():
            runs = self.ledger.configs(values, self.settings.seeds)
            for _, summary in self.ledger.pool.run_all(runs, dataset=self.dataset, test=False):
                if isinstance(summary, RunCrashedError):
                    raise summary

    def crown(self) -> None:
        """Has the best combination trained, reads the test set for each of its runs, and completes the records."""
        self.train_best()
        if values := self.best():
            configs = self.ledger.configs(values, self.settings.seeds)
            with exclusive(self.own / "winner.lock"):  # one process reads the test set, once
                for config in configs:
                    self.ledger.pool.run(config, dataset=self.dataset)
            runs = [{"seed": config.seed, "path": self.ledger.relative(config)} for config in configs]
            self.winner = {"values": values, "runs": runs}
        with self.lock:
            self._write()

    def winner_summaries(self) -> list[Summary]:
        """The final figures of the winner's runs, with those of the test set."""
        values = self.best()
        configs = self.ledger.configs(values, self.settings.seeds) if values else []
        return [summary for config in configs if (summary := self.ledger.pool.summary(config))]

    def _write(self) -> None:
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
        write_atomic(self.out / RECORDS, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def _count_done(self) -> int:
        states = [state for _, state in self._tried().values()]
        return sum(state.is_finished() for state in states)

    def _line(self, claim: _Claim, state: Outcome) -> str:
        """What to say of a trial that ended."""
        done, total = self._count_done(), self.settings.count()
        what = f"val {self.ledger.accuracy(claim.values):.2%}" if state == "finished" else state
        here = done - self._done_before
        minutes = (time.monotonic() - self._begun) / 60 / max(1, here) * (total - done)
        left = f", about {minutes:.0f} min left" if minutes >= 1 else ""
        return f"{done} of {total}: {describe(claim.values)}: {what}{left}"


def _enqueue(study: optuna.Study, number: int, values: Values) -> None:
    study.enqueue_trial(values, user_attrs={"number": number, "values": values})
