"""The training loop: step, evaluate, record, checkpoint."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F

from convmixer.config import Engine, RunConfig
from convmixer.data import Dataset
from convmixer.data.augment import Augment
from convmixer.data.batches import Normalize, TrainBatches
from convmixer.data.mixing import Mixing
from convmixer.errors import InputError
from convmixer.inference.trained import compute_logits, loss_and_accuracy
from convmixer.models import ConvMixer, build_model, count_parameters
from convmixer.runs import EpochRecord, RunDir
from convmixer.runs.checkpoint import save_checkpoint
from convmixer.runtime.device import autocast, choose_precision, dtype_name
from convmixer.training.display import TensorBoard, TrainingDisplay
from convmixer.training.graph import GraphedStep
from convmixer.training.schedule import learning_rate, rate_factor
from convmixer.training.sizes import check_sizes, image_size_in
from convmixer.training.step import TrainStep

_LOOK_SECONDS = 0.5  # how often a GPU's losses are looked at: each look waits for the GPU
_SAVE_SHARE = 10  # times as long as saving takes has to pass between two checkpoints
_POSITION = ("epoch", "step", "seconds", "losses", "correct", "best_epoch")


class DivergedError(Exception):
    """The loss, or a weight, is no longer a finite number."""


class PrunedError(Exception):
    """Whoever watches the run has seen enough of it."""


class TrainingLoop:
    """Everything that a checkpoint holds, and the loop that changes it.

    Raises:
        InputError: a model that does not fit the images.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, run: RunDir, device: torch.device) -> None:
        info, settings = dataset.info, config.train
        batch_size = check_sizes(config, info)
        self.config, self.dataset, self.run, self.device = config, dataset, run, device
        self.precision = choose_precision(settings.precision, device)
        torch.manual_seed(config.seed)
        self.model = build_model(config.architecture, len(info.classes), info.channels, settings.engine)
        self.model.weigh_branches(settings.branch_gamma)
        layout = torch.channels_last if settings.channels_last else torch.preserve_format
        self.model.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.update = TrainStep(self.model, settings, device, self.precision)
        self.normalize = Normalize(info, device, settings.channels_last)
        augment = Augment(config.augment, mean=info.mean, mirror=info.mirror)
        images = dataset.splits["train"]
        mixing = Mixing.of(config.augment, len(info.classes))
        self.batches = TrainBatches(images, batch_size, config.seed, augment, self.normalize, device, mixing)
        graphed = device.type == "cuda" and settings.cuda_graph
        self.run_update: TrainStep | GraphedStep = GraphedStep(self.update) if graphed else self.update
        self.engine = self._set_engine(self._measured_engine())
        # The split that chooses the epoch; without one the last epoch is taken.
        self.selection = "test" if config.protocol == "original" else "val" if "val" in dataset.splits else None

        self.epoch, self.step = 0, 0  # finished epochs, and finished steps of the one after
        self.seconds = 0.0  # spent in these steps
        self.losses: list[float] = []  # of these steps
        self.correct: list[float] = []
        self.records: list[EpochRecord] = []
        self.best: dict[str, torch.Tensor] = {}
        self.best_epoch = 0
        self._unseen: list[torch.Tensor] = []  # (loss, correct) of steps that were not looked at yet
        self._looked = self._saved = time.monotonic()
        self._save_seconds = 0.0

    def _measured_engine(self) -> Engine:
        """What "auto" is for this run's batches; settled, so that evaluation and resuming do not choose anew."""
        info, count = self.dataset.info, self.batches.batch_size // self.config.train.accumulate
        with autocast(self.device, self.precision):
            images = torch.zeros(count, info.channels, info.image_size, info.image_size, device=self.device)
            return self.model.engine_for(images, captured=isinstance(self.run_update, GraphedStep))

    def _set_engine(self, engine: Engine) -> Engine:
        for model in self._models().values():
            model.set_engine(engine)
        return engine

    def _models(self) -> dict[str, ConvMixer]:
        """The models to evaluate, by what stands before their figures' names; the last one is chosen from and kept."""
        average = self.update.average
        return {"": self.model} | ({"ema_": average.model} if average is not None else {})

    def describe(self) -> str:
        """One line: model, data, device."""
        info, parameters = self.dataset.info, count_parameters(self.model)
        sizes = ", ".join(f"{count} {name}" for name, count in info.sizes.items())
        where = f"{self.device.type} {dtype_name(self.precision)}, {self.engine} engine"
        return (
            f"{self.config.model} ({parameters:,} parameters) on {info.name} ({sizes}), {where}, into {self.run.path}"
        )

    def run_epochs(
        self,
        check: Callable[[], None],
        display: TrainingDisplay,
        *,
        events: bool = True,
        report: Callable[[EpochRecord], None] = lambda record: None,
    ) -> None:
        """Trains the epochs that are left, and writes TensorBoard ``events`` of them where these are wanted.

        ``check`` is called between steps and may raise to stop. ``report`` is called with every finished epoch, those
        before a resumption included, and may raise PrunedError.

        Raises:
            DivergedError: a loss or a weight is not finite; the last checkpoint is from before.
        """
        folder = self.run.path / "tensorboard"
        with TensorBoard(folder, first_epoch=self.epoch + 1) if events else nullcontext() as tensorboard:
            for record in self.records:
                report(record)
            while self.epoch < self.config.train.epochs:
                self._train_epoch(check, display)
                record = self._record(check)
                self.records.append(record)
                self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
                self.losses, self.correct = [], []
                if self._save_is_due():
                    self.save()
                self.run.write_metrics(self.records)
                if tensorboard:
                    tensorboard.log(record)
                display.epoch(record)
                report(record)

    def _train_epoch(self, check: Callable[[], None], display: TrainingDisplay) -> None:
        self.model.train()
        full, patch = self.dataset.info.image_size, self.config.architecture.patch_size
        size = image_size_in(self.config.train, self.epoch, full, patch)
        start = time.perf_counter() - self.seconds
        for images, targets in self.batches.epoch(self.epoch, self.step):
            if size < full:
                images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
            self._train_step(images, targets)
            self.step += 1
            last = self.step == len(self.batches)
            if self.device.type == "cpu" or last or time.monotonic() - self._looked > _LOOK_SECONDS:
                self._look()
                self.seconds = time.perf_counter() - start
                loss, accuracy, rate = self._running_means()
                display.step(self.epoch, self.step, loss, accuracy, rate)
            check()
            if not last and time.monotonic() - self._saved >= 60 * self.config.train.checkpoint_minutes:
                self.save()
                start = time.perf_counter() - self.seconds  # saving is not training

    def _train_step(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        """One update from (B, C, H, W) float32 images and (B,) labels or (B, K) probabilities."""
        position = self.epoch * len(self.batches) + self.step
        self.update.set_learning_rate(rate_factor(self.config.train, position, len(self.batches)))
        self._unseen.append(self.run_update(images, targets))

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.config.train, self.epoch * len(self.batches) + step, len(self.batches))

    def _running_means(self) -> tuple[float, float, float]:
        """Loss, accuracy and images per second of the steps of this epoch that were looked at."""
        seen = len(self.losses) * self.batches.batch_size
        return statistics.fmean(self.losses), sum(self.correct) / seen, seen / self.seconds

    def _look(self) -> None:
        """Fetches losses from the device. Raises DivergedError at the first that is not finite."""
        self._looked = time.monotonic()
        unseen, self._unseen = self._unseen, []
        for loss, correct in torch.stack(unseen).tolist() if unseen else []:
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss}")
            self.losses.append(loss)
            self.correct.append(correct)

    def _diverged(self, what: str) -> DivergedError:
        position = len(self.losses)
        step = self.epoch * len(self.batches) + position + 1
        known = self.losses[-1:] or [record.train_loss for record in self.records[-1:]]
        last = f"{known[0]:.4g}" if known else "none"
        return DivergedError(
            f"{what} at step {step} (epoch {self.epoch + 1}), where the learning rate is "
            f"{self._learning_rate(position):.3g} and the last finite loss was {last}; "
            "try a lower --lr or --precision float32"
        )

    def _record(self, check: Callable[[], None]) -> EpochRecord:
        """Evaluates after the last step of an epoch and keeps the weights if they are the best."""
        due = (self.epoch + 1) % self.config.train.eval_every == 0 or self.epoch + 1 == self.config.train.epochs
        held: dict[str, float] = {}
        for prefix, model in self._models().items() if self.selection and due else ():
            held |= self._held_out(f"{prefix}{self.selection}", model, check)
        train_loss, train_accuracy, rate = self._running_means()
        record = EpochRecord(
            epoch=self.epoch + 1,
            lr=self._learning_rate(len(self.batches) - 1),
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            seconds=self.seconds,
            images_per_second=rate,
            **held,
        )
        if (due or not self.selection) and self._score(record) >= max(map(self._score, self.records), default=0.0):
            *_, kept = self._models().values()
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in kept.state_dict().items()}
            self.best_epoch = record.epoch
        return record

    def _held_out(self, name: str, model: ConvMixer, check: Callable[[], None]) -> dict[str, float]:
        """Loss and accuracy of a model on the images that choose the epoch, named ``name`` in the record."""
        assert self.selection
        part = self.dataset.splits[self.selection]
        logits = compute_logits(model, part, self.normalize, self.device, self.precision, check=check)
        loss, accuracy = loss_and_accuracy(logits, part.labels)
        if not math.isfinite(loss):
            raise self._diverged(f"the {name} loss is {loss}")
        return {f"{name}_loss": loss, f"{name}_accuracy": accuracy}

    def _score(self, record: EpochRecord) -> float:
        """What the epoch is chosen by; of equal epochs the last wins, so a constant chooses the last of all."""
        return record.held_out()[1] or 0.0

    def _save_is_due(self) -> bool:
        """Behind every epoch; on a GPU, where some take half a second, so that saving takes a tenth of the time."""
        always = self.device.type == "cpu" or self.epoch == self.config.train.epochs
        return always or time.monotonic() - self._saved >= _SAVE_SHARE * self._save_seconds

    def save(self) -> None:
        """Writes a checkpoint. Raises DivergedError, and leaves the last one, if a loss or a weight is not finite."""
        self._look()
        if not all(bool(weight.isfinite().all()) for weight in self.model.parameters()):
            raise self._diverged("a weight is not finite")
        begin = time.monotonic()
        state = {
            "fingerprint": self.dataset.info.fingerprint,
            "threads": torch.get_num_threads(),
            "engine": self.engine,
            **self.update.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "position": {name: getattr(self, name) for name in _POSITION},
            "records": [vars(record) for record in self.records],
            "best": self.best,
        }
        save_checkpoint(self.run.path, state)
        self._saved = time.monotonic()
        self._save_seconds = self._saved - begin

    def restore(self, state: dict[str, Any]) -> str:
        """Takes up a checkpoint's ``state``; returns a warning, or ''.

        Raises:
            InputError: the data are not those that the run began with.
        """
        if state["fingerprint"] != self.dataset.info.fingerprint:
            raise InputError(
                f"{self.config.data.dataset}: the images are not those that the run in {self.run.path} began with; "
                "put them back, or choose another --out."
            )
        self.update.load_state_dict(state)
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self.engine = self._set_engine(state["engine"])
        for name in _POSITION:
            setattr(self, name, state["position"][name])
        self.records = [EpochRecord(**record) for record in state["records"]]
        self.best = state["best"]
        if self.device.type == "cpu" and state["threads"] != torch.get_num_threads():
            return f"The run began with {state['threads']} threads, so the last bits of its result may differ now."
        return ""
