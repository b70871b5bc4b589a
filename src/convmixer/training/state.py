"""Where a training run is: everything that a checkpoint holds."""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from torch import Tensor, nn

from convmixer.config import Engine, RunConfig
from convmixer.errors import InputError
from convmixer.runs import EpochRecord
from convmixer.runs.checkpoint import another_run
from convmixer.training.step import TrainStep

_POSITION = ("epoch", "step", "seconds", "losses", "correct")


class BestWeights:
    """The weights of the best epoch so far; the later one of equals, so without scores the last."""

    def __init__(self) -> None:
        self.epoch = 0
        self.weights: dict[str, Tensor] = {}
        self.score = 0.0

    def consider(self, record: EpochRecord, model: nn.Module) -> None:
        """Keeps a copy of the model's weights, on the CPU, if no earlier epoch was better."""
        score = _score(record)
        if score >= self.score:
            self.epoch, self.score = record.epoch, score
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def restore(self, epoch: int, weights: dict[str, Tensor], records: list[EpochRecord]) -> None:
        """Takes up what a checkpoint holds."""
        self.epoch, self.weights, self.score = epoch, weights, max(map(_score, records), default=0.0)


def _score(record: EpochRecord) -> float:
    return record.selection_metrics()[1] or 0.0


class TrainState:
    """What an update changes, the random state, the position in the run, its records, and the best weights.

    Args:
        update: the model, its optimiser and average.
        config: the run; a checkpoint of another one is refused.
        fingerprint: of the data, which have to be the same when a run goes on.
        engine: how the model is executed, to the end of the run.
        precise_bn: whether evaluations estimate the statistics of batch normalisation anew, to the end of the run.
    """

    def __init__(
        self, update: TrainStep, config: RunConfig, fingerprint: str, engine: Engine, precise_bn: bool
    ) -> None:
        self.update, self.config, self.fingerprint = update, config, fingerprint
        self.engine, self.precise_bn = engine, precise_bn
        self.epoch, self.step = 0, 0  # finished epochs, and finished steps of the one after
        self.seconds = 0.0  # spent in these steps
        self.losses: list[float] = []  # of these steps
        self.correct: list[float] = []
        self.pending: list[Tensor] = []  # (loss, correct) of steps that are still on the device
        self.records: list[EpochRecord] = []
        self.best = BestWeights()

    def fetch_losses(self) -> float | None:
        """Fetches losses from the device, up to the first that is not finite, which is returned."""
        pending, self.pending = self.pending, []
        for loss, correct in torch.stack(pending).tolist() if pending else []:
            if not math.isfinite(loss):
                return float(loss)
            self.losses.append(loss)
            self.correct.append(correct)
        return None

    def running_means(self, batch_size: int) -> tuple[float, float, float]:
        """Loss, accuracy and images per second of the steps of this epoch whose losses were fetched."""
        seen = len(self.losses) * batch_size
        return statistics.fmean(self.losses), sum(self.correct) / seen, seen / self.seconds

    def end_epoch(self, record: EpochRecord) -> None:
        """Moves on to the first step of the next epoch."""
        self.records.append(record)
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        self.losses, self.correct = [], []

    def state_dict(self) -> dict[str, Any]:
        """Tensors in use, not copies, and plain values. With several ranks each has a random state of its own."""
        device = self.update.device
        return {
            "identity": {n: value for n, value in self.config.identity().items() if n != "dataset"},  # data may move
            "fingerprint": self.fingerprint,
            "threads": torch.get_num_threads(),
            "engine": self.engine,
            "precise_bn": self.precise_bn,
            **self.update.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "position": {name: getattr(self, name) for name in _POSITION} | {"best_epoch": self.best.epoch},
            "records": [vars(record) for record in self.records],
            "best": self.best.weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> str:
        """Takes up what :meth:`state_dict` returned; returns a warning, or ''.

        Raises:
            InputError: it is of another run, or the data are not those that the run began with.
        """
        if differences := another_run(state, self.config):
            raise InputError(
                f"The checkpoint is of another run ({differences}); put back the run's own, or choose another --out."
            )
        if state["fingerprint"] != self.fingerprint:
            raise InputError(
                "--dataset: the images are not those that this run began with; put them back, or choose another --out."
            )
        epochs = state.get("identity", {}).get("epochs", self.config.train.epochs)
        precise_bn = state.get("precise_bn", False)  # which versions without it did not know
        if precise_bn != self.precise_bn and epochs != self.config.train.epochs:
            raise InputError(
                f"With {epochs} epochs it has so few steps that its epochs were evaluated with statistics of "
                "batch normalisation estimated anew (`precise_bn`), and those to come would not be; train anew."
            )
        device = self.update.device
        self.update.load_state_dict(state)
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], device)
        self.engine, self.precise_bn = state["engine"], precise_bn
        for name in _POSITION:
            setattr(self, name, state["position"][name])
        self.records = [EpochRecord(**record) for record in state["records"]]
        self.best.restore(state["position"]["best_epoch"], state["best"], self.records)
        if device.type == "cpu" and state["threads"] != torch.get_num_threads():
            return f"The run began with {state['threads']} threads, so the last bits of its result may differ now."
        return ""
