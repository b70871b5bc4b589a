"""The training loop: step, evaluate, record, checkpoint."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from convmixer.config import RunConfig
from convmixer.data import Dataset
from convmixer.inference.deployed import Deployed
from convmixer.inference.evaluate import loss_and_accuracy
from convmixer.inference.torch_predictor import TorchPredictor
from convmixer.models import ConvMixer
from convmixer.runs import EpochRecord
from convmixer.runtime.device import autocast, choose_precision
from convmixer.runtime.world import SingleProcess, World
from convmixer.training.batch_norm import is_precise, with_precise_statistics
from convmixer.training.build import settled_engine, train_batches
from convmixer.training.graph import GraphedStep
from convmixer.training.observers import Progress, RunObserver
from convmixer.training.schedule import learning_rate, lr_scale
from convmixer.training.state import TrainState
from convmixer.training.step import TrainStep
from convmixer.training.teacher import Teacher

_SYNC_SECONDS = 0.5  # how often a GPU's losses are fetched: each time the host waits for the GPU
_SAVE_SHARE = 10  # times as long as saving takes has to pass between two checkpoints


class DivergedError(Exception):
    """The loss, or a weight, is no longer a finite number."""


class TrainingLoop:
    """Trains a model on a data set.

    Args:
        config: how.
        dataset: its splits ``train`` and, for choosing the epoch, ``val`` (``test`` under the original protocol).
        model: to be trained, on ``device``; see :func:`convmixer.training.build.new_model`.
        device: where everything happens.
        observer: is told what happens, and may end the run; of several ranks only the first has one that writes.
        world: the processes that train together.
        teacher: whose answers are learned beside the labels.

    Raises:
        InputError: a size that does not fit the images.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        model: ConvMixer,
        device: torch.device,
        observer: RunObserver | None = None,
        world: World | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.config, self.dataset, self.model, self.device = config, dataset, model, device
        self.observer, self.world = observer or RunObserver(), world or SingleProcess()
        self.batches = train_batches(config, dataset, device)
        self.precision = choose_precision(config.train.precision, device)
        self.update = TrainStep(model, config.train, device, self.precision, self.world, teacher)
        graphed = device.type == "cuda" and config.train.cuda_graph
        self.run_update: TrainStep | GraphedStep = GraphedStep(self.update) if graphed else self.update
        engine = settled_engine(model, self.batches, config.train, self.precision, captured=graphed)
        precise_bn = is_precise(config.train, len(self.batches))
        self.state = TrainState(self.update, config, dataset.info.fingerprint, engine, precise_bn)
        self._set_engine()
        # The split that chooses the epoch; without one the last epoch is taken.
        self.selection = "test" if config.protocol == "original" else "val" if "val" in dataset.splits else None
        self._synced = self._saved = time.monotonic()
        self._save_seconds = 0.0
        self._saved_position: tuple[int, int] | None = None

    def _set_engine(self) -> None:
        for model in self._models().values():
            model.set_engine(self.state.engine)

    def _models(self) -> dict[str, ConvMixer]:
        """The models that are trained, by the prefix of their metrics' names; the last one is chosen from and kept."""
        ema = self.update.ema
        return {"": self.model} | ({"ema_": ema.model} if ema is not None else {})

    def _models_to_evaluate(self) -> dict[str, ConvMixer]:
        """The same ones, or copies with statistics of their own."""
        models = self._models()
        if self.state.precise_bn:
            with autocast(self.device, self.precision):
                images, normalize = self.batches.images, self.batches.normalize
                models = {name: with_precise_statistics(model, images, normalize) for name, model in models.items()}
        return models

    def restore(self, state: dict[str, Any]) -> str:
        """Goes on from a checkpoint's ``state``; see :meth:`TrainState.load_state_dict`."""
        warning = self.state.load_state_dict(state)
        self._set_engine()
        if steps := self._steps():  # or what is saved before the next step would have the rate of none
            self.update.set_lr_scale(lr_scale(self.config.train, steps - 1, len(self.batches)))
        self._saved_position = self._position()
        return warning

    def run(self) -> None:
        """Trains the epochs that are left.

        Raises:
            DivergedError: a loss or a weight is not finite; the last checkpoint is from before.
            Interrupted, PrunedError: what the observer ended the run with.
        """
        self.observer.on_start(tuple(self.state.records))
        try:
            while self.state.epoch < self.config.train.epochs:
                if self.state.step == 0:
                    self.check_stop()
                self._train_epoch()
                record = self._record()
                self.state.end_epoch(record)
                if self.world.any(self._save_is_due()):
                    self.save()
                self.observer.on_epoch(record)
        finally:
            self.observer.on_end()

    def check_stop(self) -> None:
        """Raises what the observer wants to end the run with, on every rank."""
        if (reason := self.world.agree(self.observer.should_stop())) is not None:
            raise reason

    def _train_epoch(self) -> None:
        state = self.state
        self.model.train()
        start = time.perf_counter() - state.seconds
        for images, targets in self.batches.epoch(state.epoch, state.step):
            self._train_step(images, targets)
            state.step += 1
            last = state.step == len(self.batches)
            due = last or self.device.type == "cpu" or time.monotonic() - self._synced > _SYNC_SECONDS
            if self.world.any(due):
                self._sync_losses()
                state.seconds = time.perf_counter() - start
                means = state.running_means(self.batches.batch_size)
                self.observer.on_step(Progress(state.epoch + 1, state.step, *means))
            self.check_stop()
            late = time.monotonic() - self._saved >= 60 * self.config.train.checkpoint_minutes
            if not last and self.world.any(late):
                self.save()
                start = time.perf_counter() - state.seconds  # saving is not training

    def _train_step(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        """One update from (B, C, H, W) float32 images and (B,) labels or (B, K) probabilities."""
        self.update.set_lr_scale(lr_scale(self.config.train, self._steps(), len(self.batches)))
        self.state.pending.append(self.run_update(images, targets))

    def _steps(self) -> int:
        """That were taken since the run began."""
        return self.state.epoch * len(self.batches) + self.state.step

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.config.train, self.state.epoch * len(self.batches) + step, len(self.batches))

    def _sync_losses(self) -> None:
        """Raises DivergedError at the first loss that is not finite."""
        self._synced = time.monotonic()
        if (loss := self.state.fetch_losses()) is not None:
            raise self._diverged(f"the loss is {loss}")

    def _diverged(self, what: str) -> DivergedError:
        state = self.state
        position = len(state.losses)
        step = state.epoch * len(self.batches) + position + 1
        known = state.losses[-1:] or [record.train_loss for record in state.records[-1:]]
        last = f"{known[0]:.4g}" if known else "none"
        return DivergedError(
            f"{what} at step {step} (epoch {state.epoch + 1}), where the learning rate is "
            f"{self._learning_rate(position):.3g} and the last finite loss was {last}; "
            "try a lower --lr or --precision float32"
        )

    def _record(self) -> EpochRecord:
        """Evaluates after the last step of an epoch and keeps the weights if they are the best."""
        epoch, settings = self.state.epoch + 1, self.config.train
        due = not self.selection or epoch % settings.eval_every == 0 or epoch == settings.epochs
        models = self._models_to_evaluate() if due else {}
        metrics: dict[str, float] = {}
        for prefix, model in models.items() if self.selection else ():
            metrics |= self._evaluate(f"{prefix}{self.selection}", model)
        loss, accuracy, rate = self.state.running_means(self.batches.batch_size)
        metrics |= {"train_loss": loss, "train_accuracy": accuracy, "seconds": self.state.seconds}
        lr = self._learning_rate(len(self.batches) - 1)
        record = EpochRecord(epoch=epoch, lr=lr, images_per_second=rate, **metrics)
        if models:
            self.state.best.consider(record, list(models.values())[-1])
        return record

    def _evaluate(self, name: str, model: ConvMixer) -> dict[str, float]:
        """Loss and accuracy of a model on the images that choose the epoch, called ``name`` in the record."""
        assert self.selection
        predictor = TorchPredictor(
            Deployed(model, self.batches.normalize), self.dataset.info, self.device, self.precision
        )
        loss, accuracy = loss_and_accuracy(predictor, self.dataset.splits[self.selection], check=self.check_stop)
        if not math.isfinite(loss):
            raise self._diverged(f"the {name} loss is {loss}")
        return {f"{name}_loss": loss, f"{name}_accuracy": accuracy}

    def _save_is_due(self) -> bool:
        """Behind every epoch; on a GPU, where some take half a second, so that saving takes a tenth of the time."""
        always = self.device.type == "cpu" or self.state.epoch == self.config.train.epochs
        return always or time.monotonic() - self._saved >= _SAVE_SHARE * self._save_seconds

    def _position(self) -> tuple[int, int]:
        return self.state.epoch, self.state.step

    def save_progress(self) -> None:
        """As :meth:`save`, if there was a step since the last checkpoint.

        The state may have changed without one: evaluating the finished run takes random numbers.
        """
        if self._position() != self._saved_position:
            self.save()

    def save(self) -> None:
        """Gives observers a checkpoint. Raises DivergedError, and does not, if a loss or a weight is not finite."""
        self._sync_losses()
        if not all(bool(weight.isfinite().all()) for weight in self.model.parameters()):
            raise self._diverged("a weight is not finite")
        begin = time.monotonic()
        self.observer.on_checkpoint(self.state.state_dict())
        self._saved_position = self._position()
        self._saved = time.monotonic()
        self._save_seconds = self._saved - begin
