"""Many runs in one directory, each trained once, however often it is asked for and by however many processes.

The run directories are the ledger: nothing else says what was done. A run's folder is named after its configuration and
locked by the process that trains it; the lock ends with that process.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from convmixer.config import DataConfig, Protocol, RunConfig
from convmixer.data import Dataset, load_dataset
from convmixer.errors import InputError, Interrupted, refusal
from convmixer.runs import EpochRecord, RunBusyError, RunDir, Summary
from convmixer.training.observers import EpochWatcher, RunObserver
from convmixer.training.train import read_test_set, train

_POLL_SECONDS = 0.2


class RunCrashedError(Exception):
    """A run ended with an error of ours; its directory keeps the traceback. Running it again tries again."""


class RunPool:
    """The runs under ``root``/runs. Pictures and TensorBoard events are left out of them."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._datasets: dict[tuple[DataConfig, Protocol], Dataset] = {}

    def path(self, config: RunConfig) -> Path:
        """Where the run with ``config`` is, or will be."""
        return self.root / "runs" / f"{config.model}-{config.recipe}-s{config.seed}-{config.identity_hash()}"

    def summary(self, config: RunConfig) -> Summary | None:
        """The final figures of the run with ``config``, or None if it has not ended."""
        return RunDir(self.path(config)).summary()

    def dataset(self, config: RunConfig, console: Console | None = None) -> Dataset:
        """The data of ``config``, loaded when they are first asked for."""
        key = (config.data, config.protocol)
        if key not in self._datasets:
            self._datasets[key] = load_dataset(config.data, protocol=config.protocol, console=console)
        return self._datasets[key]

    def run(
        self,
        config: RunConfig,
        *,
        dataset: Dataset | None = None,
        console: Console | None = None,
        wait: bool = True,
        test: bool = True,
        observer: RunObserver | None = None,
        keep_pruned: bool = False,
    ) -> Summary:
        """The summary of the run with ``config``: read if the run has ended, trained or resumed otherwise.

        A run that diverged has ended.

        Args:
            config: which run.
            dataset: its data, if already loaded; the pool's own otherwise.
            console: where the run's progress is shown; nowhere by default.
            wait: if another process trains this run, wait for its result.
            test: read the test set, if that was not done yet.
            observer: is told what happens if the run is trained here, and may end it.
            keep_pruned: leave a run that an observer ended earlier as it is, instead of continuing it.

        Raises:
            RunBusyError: another process holds the lock, and ``wait`` is not set.
            RunCrashedError: the run ended with an error that is neither bad input nor a signal.
            InputError: as :func:`convmixer.training.train`.
            Interrupted: SIGINT or SIGTERM arrived; a checkpoint was written.
        """
        while True:
            ended = self.summary(config)
            if ended and not self._needs_work(ended, test, keep_pruned):
                return ended
            try:
                images = dataset or self.dataset(config, console)
                if ended and ended.status == "finished":
                    return read_test_set(self.path(config), dataset=images)
                options = {"test": test, "observer": observer, "keep_pruned": keep_pruned}
                return self._train(config, dataset=images, console=console, **options)
            except RunBusyError:
                if not wait:
                    raise
            time.sleep(_POLL_SECONDS)

    @staticmethod
    def _needs_work(ended: Summary, test: bool, keep_pruned: bool) -> bool:
        """Whether an ended run lacks something: its test metrics, or the epochs that were pruned."""
        untested = ended.status == "finished" and ended.test_accuracy is None
        return (untested and test) or (ended.status == "pruned" and not keep_pruned)

    def run_all(
        self,
        configs: Iterable[RunConfig],
        *,
        dataset: Dataset | None = None,
        console: Console | None = None,
        test: bool = True,
        report: Callable[[RunConfig, EpochRecord], None] = lambda config, record: None,
    ) -> Iterator[tuple[RunConfig, Summary | RunCrashedError]]:
        """Runs ``configs``; yields each, once, as soon as it has ended, with its summary or with what made it crash.

        Several processes that do this in one directory share the work: each passes over the runs that others train, and
        comes back to them when nothing else is left, in case their process has died. A run that crashes meanwhile in
        another process is not tried again.

        Args:
            configs: which runs.
            dataset: the data of them all, if already loaded; the pool's own otherwise.
            console: where each run's progress is shown; nowhere by default.
            test: as :meth:`run`.
            report: is called with every finished epoch of the runs that are trained here.

        Raises:
            InputError: as :func:`convmixer.training.train`.
            Interrupted: SIGINT or SIGTERM arrived; a checkpoint was written.
        """
        left = list(dict.fromkeys(configs))
        crashes = {config: self._crash(config) for config in left}
        while left:
            busy = []
            for config in left:
                if (crash := self._crash(config)) and crash != crashes[config]:
                    path = self.path(config)
                    yield config, RunCrashedError(f"{path}: crashed in another process; see {path / 'error.txt'}")
                    continue
                if RunDir(self.path(config)).status() == "running":  # to wait for its lock would be to follow the other
                    busy.append(config)
                    continue
                try:
                    watcher = EpochWatcher(functools.partial(report, config))
                    options: dict[str, Any] = {"console": console, "test": test, "observer": watcher}
                    yield config, self.run(config, dataset=dataset, wait=False, **options)
                except RunBusyError:
                    busy.append(config)
                except RunCrashedError as error:
                    yield config, error
            if len(busy) == len(left):
                time.sleep(_POLL_SECONDS)
            left = busy

    def _crash(self, config: RunConfig) -> int | None:
        """When the last attempt crashed, in nanoseconds; None if it did not."""
        try:
            return (self.path(config) / "error.txt").stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _train(self, config: RunConfig, **options: Any) -> Summary:
        path = self.path(config)
        try:
            return train(config, path, resume=True, artifacts=False, **options)
        except (InputError, Interrupted):
            raise
        except Exception as error:
            if isinstance(error, OSError) and refusal(error):
                raise  # it would refuse the next run as well
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise RunCrashedError(f"{path}: crashed ({what}); {path / 'error.txt'} has the traceback") from error
