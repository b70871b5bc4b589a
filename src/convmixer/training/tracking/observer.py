"""The observer that tells a run's trackers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from convmixer.config import RunConfig
from convmixer.errors import InputError, Interrupted
from convmixer.manifest import Manifest, read_record
from convmixer.records import build, parse_json
from convmixer.runs import EpochRecord, Summary
from convmixer.training.observers import RunObserver
from convmixer.training.tracking.mlflow import Mlflow
from convmixer.training.tracking.tensorboard import TensorBoard
from convmixer.training.tracking.tracker import TrackedRun, Tracker, Value
from convmixer.training.tracking.wandb import Wandb

_IDS = "trackers.json"
_TRACKERS: dict[str, Callable[[], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": lambda: Wandb("wandb"),
    "trackio": lambda: Wandb("trackio"),
    "mlflow": Mlflow,
}
_FINAL = ("test_accuracy", "test_accuracy_tta", "test_loss", "val_accuracy", "train_accuracy", "selected_epoch")


def require_packages(names: Iterable[str]) -> None:
    """Raises InputError if a tracker's package is not installed."""
    for name in names:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            raise InputError(
                f"`track`: the package {name} is not installed; pip install {name}, or 'convmixer-lab[track]' for all "
                "trackers, or leave it out."
            )


class Tracking(RunObserver):
    """Tells trackers, and closes them at the end of the ``with`` block. One that fails is left out from then on.

    Args:
        names: the trackers.
        folder: the run directory; ``trackers.json`` there says how a resumed run's records are continued.
        config: of the run.
        facts: what else is worth knowing of it.
        console: where a failure is shown, once for each tracker.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, config: RunConfig, facts: dict[str, Value], console: Console
    ) -> None:
        self.names, self.folder, self.console = names, folder, console
        self.settings = _plain(config.identity()) | facts
        self.trackers: dict[str, Tracker] = {}
        self.epoch, self.status = 0, "crashed"

    def on_start(self, records: Sequence[EpochRecord]) -> None:
        """Opens the records. New ones of a resumed run begin with its earlier epochs."""
        ids = self._ids()
        for name in self.names:
            with self._failing(name):
                tracker = _TRACKERS[name]()
                run = TrackedRun(self.folder, ids.get(name), len(records), self.settings)
                if run_id := tracker.start(run):
                    Manifest(self.folder).write({_IDS: json.dumps(ids := ids | {name: run_id}, indent=2) + "\n"})
                self.trackers[name] = tracker
                for record in records if run.id is None else ():
                    tracker.log(record.epoch, _metrics(record))
        self.epoch = len(records)

    def on_epoch(self, record: EpochRecord) -> None:
        """Logs the epoch's metrics."""
        self.epoch = record.epoch
        self._tell(lambda tracker: tracker.log(record.epoch, _metrics(record)))

    def on_summary(self, summary: Summary) -> None:
        """Logs the final figures and the pictures in the run directory."""
        self.status = summary.status
        values = summary.to_dict()
        figures = {f"final/{name}": values[name] for name in _FINAL if values[name] is not None}
        pictures = sorted(self.folder.glob("*.png"))
        self._tell(lambda tracker: tracker.end(self.epoch, figures, pictures))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, Interrupted):
            self.status = "interrupted"
        self._tell(lambda tracker: tracker.close(self.status))

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            with self._failing(name):
                call(tracker)

    @contextlib.contextmanager
    def _failing(self, name: str) -> Any:
        """What a tracker prints goes to stderr; if it fails, it is not told anything any more."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            self.trackers.pop(name, None)
            reason = " ".join(str(error).split()) or type(error).__name__
            text = f"The tracker {name} failed ({reason}); the run goes on without it."
            self.console.print(text, style="yellow", highlight=False, markup=False)

    def _ids(self) -> dict[str, str]:
        """The trackers that already have a record of this run."""
        ids: dict[str, str] = {"tensorboard": ""} if (self.folder / "tensorboard").exists() else {}
        content = read_record(self.folder / _IDS)
        with contextlib.suppress(InputError):
            ids |= build(dict[str, str], parse_json(content or b"{}", _IDS), _IDS)
        return ids


def _metrics(record: EpochRecord) -> dict[str, float]:
    return {name: value for name, value in vars(record).items() if name != "epoch" and value is not None}


def _plain(values: dict[str, Any]) -> dict[str, Value]:
    """Settings as every tracker takes them; None, which is a default, is left out."""
    return {
        name: value if isinstance(value, bool | int | float | str) else ",".join(map(str, value))
        for name, value in values.items()
        if value is not None
    }
