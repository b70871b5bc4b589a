"""A run is a directory. What is in it, who may write to it, and how it is read.

config.json        everything needed to repeat the run
dataset.json       what the data were: classes, size, normalisation, fingerprint
environment.json   versions, device, commit
init.json          where the weights came from, if the run started from trained ones
teacher.json       whose answers the run learned beside the labels, if it had a teacher
metrics.jsonl      a line for every finished epoch
checkpoint.pt      everything needed to continue (and checkpoint.previous.pt)
model.safetensors  the selected weights
summary.json       final figures, once the run has ended
evaluation_*.json  what the selected weights are worth on a split
error.txt          the traceback of the failure that ended the last attempt, until another one succeeds
tensorboard/       TensorBoard events: metrics, settings, pictures
trackers.json      ids by which other trackers continue their records
manifest.json      what of the above, other than checkpoints, error.txt and events, was written: SHA-256 and size
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from filelock import Timeout

from convmixer.config import RunConfig
from convmixer.data import DatasetInfo
from convmixer.errors import InputError, Interrupted, refusal
from convmixer.files import file_lock, is_locked, read_bytes, write_atomic
from convmixer.manifest import MARK, Manifest
from convmixer.manifest import NAME as MANIFEST
from convmixer.records import build, parse_json
from convmixer.runs.paths import CURRENT, PREVIOUS
from convmixer.runs.records import EpochRecord, InitialWeights, Status, Summary, TeacherRecord
from convmixer.utils.metrics import Evaluation

_ERROR = "error.txt"
_LOCK = ".lock"
_WEIGHTS = "model.safetensors"
_LOCK_SECONDS = 0.2  # to acquire it: whoever asks for the status holds it for an instant


class RunBusyError(InputError):
    """Another process is training into the run directory."""


class RunDir:
    """The files of one run. Reading raises InputError, with the path, where a file is not what was written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = Manifest(self.path, self.check_claim)
        self._claim: tuple[int, int] | None = None  # device and inode of the lock that this object holds

    @classmethod
    def existing(cls, path: str | Path) -> Self:
        """A directory that holds a run. Raises InputError if it does not."""
        run = cls(path)
        if not (run.path / "config.json").is_file():
            raise InputError(f"{path}: is not a run directory (it has no config.json); give one that training wrote.")
        return run

    @property
    def weights(self) -> Path:
        """``model.safetensors``, which is there once the run has finished."""
        return self.path / _WEIGHTS

    def has_weights(self) -> bool:
        """Whether :attr:`weights` are there; what reads them checks what they are."""
        return self.manifest.has(_WEIGHTS)

    def config(self) -> RunConfig:
        """``config.json``."""
        return RunConfig.from_dict(self._read("config.json"), where=str(self.path / "config.json"))

    def dataset(self) -> DatasetInfo:
        """``dataset.json``."""
        return build(DatasetInfo, self._read("dataset.json"), str(self.path / "dataset.json"))

    def summary(self) -> Summary | None:
        """``summary.json``, or None if the run has not ended."""
        values = self._read("summary.json", optional=True)
        return None if values is None else build(Summary, values, str(self.path / "summary.json"))

    def metrics(self) -> list[EpochRecord]:
        """The finished epochs in ``metrics.jsonl``."""
        path, content = self.path / "metrics.jsonl", self.manifest.read("metrics.jsonl") or b""
        places = ((line, f"{path}: line {number}") for number, line in enumerate(content.splitlines(), 1))
        return [build(EpochRecord, parse_json(line, place), place) for line, place in places]

    def evaluation(self, split: str = "test") -> Evaluation | None:
        """``evaluation_<split>.json``, or None if the split was not evaluated."""
        name = f"evaluation_{split}.json"
        values = self._read(name, optional=True)
        return None if values is None else Evaluation.from_dict(values, str(self.path / name))

    def initial_weights(self) -> InitialWeights | None:
        """``init.json``, or None if the run started from random weights."""
        values = self._read("init.json", optional=True)
        return None if values is None else build(InitialWeights, values, str(self.path / "init.json"))

    def teacher(self) -> TeacherRecord | None:
        """``teacher.json``, or None if the run learned from labels alone."""
        values = self._read("teacher.json", optional=True)
        return None if values is None else build(TeacherRecord, values, str(self.path / "teacher.json"))

    def environment(self) -> dict[str, Any]:
        """``environment.json``; empty if there is none yet."""
        values = self._read("environment.json", optional=True)
        if values is None:
            return {}
        if not isinstance(values, dict):
            raise InputError(f"{self.path / 'environment.json'}: does not describe an environment.")
        return values

    def status(self) -> Status:
        """What the files and the lock say of the run."""
        summary = self.summary()
        if summary is not None:
            return summary.status
        if is_locked(self.path / _LOCK):
            return "running"
        if self.error():
            return "crashed"
        return "interrupted" if self.has_checkpoint() or (self.path / "config.json").exists() else "new"

    def error(self) -> str:
        """The traceback of the failure that ended the last attempt; '' if there was none."""
        path = self.path / _ERROR
        there = path.exists() or path.is_symlink()
        return read_bytes(path).decode(errors="replace") if there else ""

    def has_checkpoint(self) -> bool:
        """Whether there is something to continue from."""
        return any((self.path / name).exists() for name in (CURRENT, PREVIOUS))

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Writes one of the JSON files, whole or not at all."""
        self.write_all({name: values})

    def write_all(self, files: dict[str, dict[str, Any]]) -> None:
        """Writes several of the JSON files, each whole or not at all."""
        self.manifest.write({name: json.dumps(v, indent=2, allow_nan=False) + "\n" for name, v in files.items()})

    def write_weights(self, content: bytes) -> None:
        """Writes ``model.safetensors``."""
        self.manifest.write({_WEIGHTS: content})

    def write_metrics(self, records: list[EpochRecord]) -> None:
        """Replaces ``metrics.jsonl``."""
        text = "".join(json.dumps(asdict(record)) + "\n" for record in records)
        self.manifest.write({"metrics.jsonl": text}, again_soon=True)

    def write_beginning(self, files: dict[str, dict[str, Any]], environment: dict[str, Any]) -> None:
        """Writes ``files`` and ``environment.json``, which keeps under "earlier" what it said before a resumption."""
        before = self.environment()
        environment = environment | MARK | ({"earlier": [before]} if before else {})
        self.write_all(files | {"environment.json": environment})

    def _read(self, name: str, *, optional: bool = False) -> Any:
        """The values in a JSON file; None if it is ``optional`` and not there."""
        path, content = self.path / name, self.manifest.read(name)
        if content is None:
            if optional:
                return None
            raise InputError(f"{path}: no such file; is {self.path} a run directory?")
        return parse_json(content, str(path))

    def check_can_use(self, config: RunConfig, *, resume: bool) -> Summary | None:
        """Checks that a run with ``config`` may use this directory; returns the summary of one that has ended.

        None, too, if the run has ended but can go on, because ``config`` has more epochs and begins with the same ones.

        Raises:
            InputError: it holds other files, or a run and ``resume`` is not set, or one with another configuration.
        """
        if not (self.path / "config.json").exists():
            # A process that was killed before its first record has left its manifest.
            ours = {_ERROR, MANIFEST}
            if any(not file.name.startswith(".") and file.name not in ours for file in self.path.iterdir()):
                raise InputError(f"{self.path}: holds other files and no run; choose another --out.")
            return None
        summary = self.summary()
        if not resume:
            if summary is None:
                what = "an unfinished run; add --resume to continue it, or"
            else:
                what = f"a {summary.status} run;"
            raise InputError(f"{self.path}: holds {what} choose another --out.")
        own = self.config()
        if summary is None and all(c.data.dataset.startswith("folder:") for c in (own, config)):
            config = config.replace(dataset=own.data.dataset)  # folders move; the fingerprint says what is in them
        if summary is not None and config == own.replace(epochs=config.train.epochs) != own:
            reason = own.why_not_longer(config.train.epochs) if summary.status == "finished" else "it cannot go on"
            if not reason:
                return None
            raise InputError(
                f"{self.path}: holds a {summary.status} run, and {reason}. Train anew into another --out, or start "
                f"there from this run's weights with --init-from {self.path}."
            )
        if differences := config_differences(own, config):
            raise InputError(
                f"{self.path}: cannot be resumed with another configuration ({differences}); "
                "leave these flags as they were, or choose another --out."
            )
        return summary

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the directory and keeps other processes from training into it; the lock ends with the process.

        Raises:
            RunBusyError: another process holds the lock.
            InputError: the directory cannot be written or locked.
        """
        lock = file_lock(self.path / _LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_LOCK_SECONDS)
        except (Timeout, FileNotFoundError):  # held, or removed in between by a process that was refused
            raise RunBusyError(
                f"{self.path}: another process is training into it; wait for it or choose another --out."
            ) from None
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.path}: cannot be written or locked ({reason}); choose another --out.") from None
        try:
            self._claim = self._lock_file()
            self.manifest.remove_leftovers()
            yield
        finally:
            if self._lock_file() == self._claim:
                self._remove_if_unused()
            self._claim = None
            lock.release()

    def check_claim(self) -> None:
        """Raises RunBusyError if the lock that this object holds is no longer the directory's: others can acquire it.

        To be called before what another process would overwrite, or have overwritten.
        """
        if self._claim is not None and self._lock_file() != self._claim:
            raise RunBusyError(
                f"{self.path}: its {_LOCK} was removed while this process trained, so another one may train into it; "
                "this one stops, and --resume continues from the last checkpoint."
            )

    def _lock_file(self) -> tuple[int, int] | None:
        try:
            found = (self.path / _LOCK).stat(follow_symlinks=False)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def reopen(self) -> None:
        """Makes a run that has ended one that has not: its checkpoint stays, what follows from it goes."""
        evaluations = sorted(file.name for file in self.path.glob("evaluation_*.json"))
        self.manifest.remove("summary.json", _WEIGHTS, *evaluations)

    @contextmanager
    def record_error(self) -> Iterator[None]:
        """Keeps the traceback of a failure within the block, other than bad input or a signal, in ``error.txt``."""
        (self.path / _ERROR).unlink(missing_ok=True)
        try:
            yield
        except (InputError, Interrupted):
            raise
        except Exception as error:
            if isinstance(error, OSError) and refusal(error):
                raise  # nothing in the run has failed
            write_atomic(self.path / _ERROR, traceback.format_exc())
            raise

    def _remove_if_unused(self) -> None:
        """Leaves no trace of a run that was refused before it began."""
        if [file.name for file in self.path.iterdir()] == [_LOCK]:
            (self.path / _LOCK).unlink()
            self.path.rmdir()


def config_differences(old: RunConfig, new: RunConfig) -> str:
    """The fields in which two runs differ in identity, as ``epochs 4 → 5, lr 0.1 → 0.2``; '' if there are none."""
    before, after = old.identity(), new.identity()
    return ", ".join(f"{name} {before[name]} → {after[name]}" for name in before if before[name] != after[name])
