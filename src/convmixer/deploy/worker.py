"""The process in which a model file or a run is measured: it has one runtime in it, and answers commands in turn."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmixer.errors import InputError
from convmixer.runtime.memory import bytes_of_process

if TYPE_CHECKING:
    from convmixer.inference.model_file import ModelInfo
    from convmixer.inference.predictor import Predictor

_RUNTIMES = {".onnx": "onnxruntime", ".xml": "openvino"}
_WARM_UP = 3
"""Calls before each turn: threads are started, and caches filled, that the others' turns emptied."""


@dataclass(frozen=True)
class Opened:
    """What a process says of the model that it opened."""

    info: ModelInfo
    runtime: str
    runtime_memory: int | None
    """Bytes by which importing the runtime made the process larger; None where the system does not say."""


class Subject:
    """A model in this process."""

    def __init__(self) -> None:
        self._before = bytes_of_process("VmRSS")

    def open(self, path: str, threads: int) -> Opened:
        """Loads a model file or a run's selected weights, to compute with ``threads``."""
        suffix = Path(path).suffix.lower()
        run = Path(path).is_dir()
        with contextlib.suppress(ImportError):  # loading it says which extra is missing
            importlib.import_module("torch" if run else _RUNTIMES.get(suffix, "torch"))
        runtime_memory = self._rise("VmRSS")
        predictor: Any
        if run:
            predictor, info, runtime = _open_run(path, threads)
        else:
            from convmixer.inference.model_file import open_model_file

            predictor = open_model_file(path, threads=threads)
            info, runtime = predictor.info, predictor.runtime
        self.predictor: Predictor = predictor
        return Opened(info, runtime, runtime_memory)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The model's answers."""
        return np.asarray(self.predictor.logits(images))

    def times(self, batches: list[NDArray[np.uint8]], seconds: float, least: int, most: int) -> list[float]:
        """Seconds of each of several calls, with ``batches`` in turn, for about ``seconds`` in all."""
        for number in range(_WARM_UP):
            self.predictor.logits(batches[number % len(batches)])
        taken: list[float] = []
        begin = time.perf_counter()
        while len(taken) < least or (len(taken) < most and time.perf_counter() - begin < seconds):
            given = batches[len(taken) % len(batches)]
            start = time.perf_counter()
            self.predictor.logits(given)
            taken.append(time.perf_counter() - start)
        return taken

    def peak_memory(self) -> int | None:
        """Bytes by which the process was larger at its peak than Python with NumPy; None where nobody says."""
        return self._rise("VmHWM")

    def _rise(self, field: str) -> int | None:
        now = bytes_of_process(field)
        return max(0, now - self._before) if now else None


def _open_run(path: str, threads: int) -> tuple[Predictor, ModelInfo, str]:
    import torch

    from convmixer.deploy.source import describe_run
    from convmixer.inference.torch_predictor import TorchPredictor
    from convmixer.runs import RunDir

    torch.set_num_threads(threads)
    run = RunDir.existing(path)
    info, engine = describe_run(run), run.config().train.engine
    return TorchPredictor.load(run, "cpu", "float32", engine), info, f"PyTorch {torch.__version__}, engine {engine}"


def main() -> None:
    """Answers (method, arguments) of :class:`Subject` on stdin, pickled, until stdin is closed.

    An answer is (kind, value): ``done`` with the result, ``refused`` with the sentence of an InputError, or ``failed``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    subject = Subject()
    while True:
        try:
            method, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(_answer(getattr(subject, method), arguments), answers)
        answers.flush()


def _answer(method: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "done", method(*arguments)
    except InputError as error:
        return "refused", error.args[0]
    except Exception as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
