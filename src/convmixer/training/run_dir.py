"""A run is a directory. What is in it, who may write to it, and how it is read.

config.json        everything needed to repeat the run
dataset.json       what the data were: classes, size, normalisation, fingerprint
environment.json   versions, device, commit
metrics.jsonl      a line for every finished epoch
checkpoint.pt      everything needed to continue (and checkpoint.previous.pt)
model.safetensors  the selected weights
summary.json       final figures, once the run has ended
error.txt          the traceback of the failure that ended the last attempt, until another one succeeds
tensorboard/       the same metrics as TensorBoard events
"""

from __future__ import annotations

import itertools
import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

from convmixer.config import RunConfig
from convmixer.data import DatasetInfo
from convmixer.errors import InputError, Interrupted
from convmixer.files import write_atomic
from convmixer.training.checkpoint import CURRENT, PREVIOUS

try:
    import fcntl
except ImportError:  # not a POSIX system: two processes are not kept apart
    fcntl = None  # type: ignore[assignment]

Status = Literal["new", "running", "interrupted", "crashed", "finished", "diverged", "pruned"]
_ERROR = "error.txt"


class RunBusyError(InputError):
    """Another process is training into the run directory."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """A line of ``metrics.jsonl``. Losses are means over images, accuracies fractions in [0, 1]."""

    epoch: int
    """From 1."""
    lr: float
    """Learning rate of the epoch's last step."""
    train_loss: float
    """Running, on augmented images, while the weights change."""
    train_accuracy: float
    val_loss: float | None = None
    val_accuracy: float | None = None
    test_loss: float | None = None
    """Only under the original protocol, which looks at the test set in every epoch."""
    test_accuracy: float | None = None
    ema_val_loss: float | None = None
    """Of the moving average of the weights, where there is one. The figures above are of the weights themselves."""
    ema_val_accuracy: float | None = None
    ema_test_loss: float | None = None
    ema_test_accuracy: float | None = None
    seconds: float
    """Training only, without evaluation and checkpoints."""
    images_per_second: float

    def held_out(self) -> tuple[float | None, float | None]:
        """Loss and accuracy that choose the epoch: of the average where there is one; None if nothing was evaluated."""
        figures = (
            (self.ema_test_loss, self.ema_test_accuracy),
            (self.test_loss, self.test_accuracy),
            (self.ema_val_loss, self.ema_val_accuracy),
            (self.val_loss, self.val_accuracy),
        )
        return next((pair for pair in figures if pair[0] is not None), (None, None))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """``summary.json``: final figures. Accuracies are fractions in [0, 1]; what does not exist is None."""

    status: Literal["finished", "diverged", "pruned"]
    message: str
    model: str
    dataset: str
    recipe: str
    protocol: str
    seed: int
    epochs: int
    parameters: int
    selected_epoch: int | None
    train_accuracy: float | None
    val_accuracy: float | None
    """Of the weights that are kept: the moving average, where there is one."""
    test_accuracy: float | None
    """Likewise."""
    test_loss: float | None
    epoch_seconds: float | None
    """Median over epochs, training only."""
    images_per_second: float | None
    device: str
    precision: str
    engine: str
    raw_val_accuracy: float | None = None
    """Of the weights themselves in the selected epoch, where the average is kept."""
    test_accuracy_tta: float | None = None
    """With test-time augmentation, where the configuration asks for it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``summary.json`` holds them."""
        return asdict(self)


class RunDir:
    """The files of one run. Reading raises InputError, with the path, where a file is missing or damaged."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def existing(cls, path: str | Path) -> Self:
        """A directory that holds a run. Raises InputError if it does not."""
        run = cls(path)
        if not (run.path / "config.json").is_file():
            raise InputError(f"{path}: is not a run directory (it has no config.json); give one that training wrote.")
        return run

    def config(self) -> RunConfig:
        """``config.json``."""
        return RunConfig.from_dict(self._read("config.json"), where=str(self.path / "config.json"))

    def dataset(self) -> DatasetInfo:
        """``dataset.json``."""
        try:
            return DatasetInfo.from_dict(self._read("dataset.json"))
        except (TypeError, AttributeError) as error:
            raise InputError(f"{self.path / 'dataset.json'}: does not describe a data set ({error}).") from None

    def summary(self) -> Summary | None:
        """``summary.json``, or None if the run has not ended."""
        if not (self.path / "summary.json").exists():
            return None
        values = self._read("summary.json")
        try:
            return Summary(**values)
        except TypeError as error:
            raise InputError(f"{self.path / 'summary.json'}: does not hold a run's figures ({error}).") from None

    def metrics(self) -> list[EpochRecord]:
        """The finished epochs in ``metrics.jsonl``."""
        path = self.path / "metrics.jsonl"
        try:
            return [EpochRecord(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
            raise InputError(f"{path}: does not hold a run's epochs ({error}).") from None

    def environment(self) -> dict[str, Any]:
        """``environment.json``; empty if there is none yet."""
        values = self._read("environment.json") if (self.path / "environment.json").exists() else {}
        if not isinstance(values, dict):
            raise InputError(f"{self.path / 'environment.json'}: does not describe an environment.")
        return values

    def status(self) -> Status:
        """What the files and the lock say of the run."""
        summary = self.summary()
        if summary is not None:
            return summary.status
        if self._is_locked():
            return "running"
        if self.error():
            return "crashed"
        return "interrupted" if self.has_checkpoint() or (self.path / "config.json").exists() else "new"

    def error(self) -> str:
        """The traceback of the failure that ended the last attempt; '' if there was none."""
        path = self.path / _ERROR
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def has_checkpoint(self) -> bool:
        """Whether there is something to continue from."""
        return any((self.path / name).exists() for name in (CURRENT, PREVIOUS))

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Writes one of the JSON files, whole or not at all."""
        write_atomic(self.path / name, json.dumps(values, indent=2, allow_nan=False) + "\n")

    def write_metrics(self, records: list[EpochRecord]) -> None:
        """Replaces ``metrics.jsonl``."""
        write_atomic(self.path / "metrics.jsonl", "".join(json.dumps(asdict(record)) + "\n" for record in records))

    def write_environment(self, values: dict[str, Any]) -> None:
        """Writes ``environment.json``; what it said before a run was resumed is kept in it, under "earlier"."""
        before = self.environment()
        self.write_json("environment.json", values | ({"earlier": [before]} if before else {}))

    def _read(self, name: str) -> Any:
        path = self.path / name
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; is {self.path} a run directory?") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: cannot be read as JSON ({error}).") from None

    def admit(self, config: RunConfig, *, resume: bool) -> Summary | None:
        """Checks that a run with ``config`` may use this directory; returns the summary of one that has ended.

        Raises:
            InputError: it holds other files, or a run and ``resume`` is not set, or one with another configuration.
        """
        if not (self.path / "config.json").exists():
            if any(not file.name.startswith(".") and file.name != _ERROR for file in self.path.iterdir()):
                raise InputError(f"{self.path}: holds other files and no run; choose another --out.")
            return None
        summary = self.summary()
        if not resume:
            state = "an unfinished" if summary is None else f"a {summary.status}"
            raise InputError(f"{self.path}: holds {state} run; add --resume to continue it, or choose another --out.")
        if differences := config_differences(self.config(), config):
            raise InputError(
                f"{self.path}: cannot be resumed with another configuration ({differences}); "
                "leave these flags as they were, or choose another --out."
            )
        return summary

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Creates the directory and keeps other processes from training into it; the claim ends with the process.

        Raises:
            RunBusyError: another process is at it.
            InputError: the directory cannot be written.
        """
        with self._lock():
            for leftover in self.path.glob(".*.tmp"):  # of a process that was killed while it wrote
                leftover.unlink()
            try:
                yield
            finally:
                self._remove_if_unused()

    def _lock(self) -> IO[str]:
        """The lock's open file, which holds it until it is closed."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.path}: cannot be written to ({reason}); choose another --out.") from None
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (self.path / ".lock").stat().st_ino == os.fstat(lock.fileno()).st_ino:
                return lock
        except (BlockingIOError, FileNotFoundError):  # locked, or just removed by a process that was refused
            pass
        except OSError as error:
            lock.close()
            raise InputError(f"{self.path}: cannot be locked ({error.strerror}); choose another --out.") from None
        lock.close()
        raise RunBusyError(f"{self.path}: another process is training into it; wait for it or choose another --out.")

    def unmark(self) -> None:
        """Makes a run that has ended one that has not."""
        (self.path / "summary.json").unlink(missing_ok=True)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keeps the traceback of a failure within the block, other than bad input or a signal, in ``error.txt``."""
        (self.path / _ERROR).unlink(missing_ok=True)
        try:
            yield
        except (InputError, Interrupted):
            raise
        except Exception:
            write_atomic(self.path / _ERROR, traceback.format_exc())
            raise

    def _remove_if_unused(self) -> None:
        """Leaves no trace of a run that was refused before it began."""
        if [file.name for file in self.path.iterdir()] == [".lock"]:
            (self.path / ".lock").unlink()
            self.path.rmdir()

    def _is_locked(self) -> bool:
        path = self.path / ".lock"
        if fcntl is None or not path.exists() or not os.access(path, os.R_OK):
            return False
        with path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False


def config_differences(old: RunConfig, new: RunConfig) -> str:
    """The fields in which two runs differ in identity, as ``epochs 4 → 5, lr 0.1 → 0.2``; '' if there are none."""
    before, after = old.identity(), new.identity()
    return ", ".join(f"{name} {before[name]} → {after[name]}" for name in before if before[name] != after[name])


def default_path(config: RunConfig, *, root: Path = Path("results/runs")) -> Path:
    """A name that says what the run is: model, data, recipe, seed, and the first digits of its identity hash."""
    dataset = Path(config.data.dataset.removeprefix("folder:")).name or "folder"
    return root / f"{config.model}-{dataset}-{config.recipe}-s{config.seed}-{config.identity_hash()[:6]}"


def unused_path(path: Path) -> Path:
    """``path``, or the first of path-2, path-3, … that does not exist."""
    return next(candidate for candidate in _numbered(path) if not candidate.exists())


def newest_path(path: Path) -> Path:
    """The last of path, path-2, path-3, … that exists, or ``path``."""
    existing = list(itertools.takewhile(Path.exists, _numbered(path)))
    return existing[-1] if existing else path


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
