"""Distillation: a trained network whose answers a run learns beside the labels (arXiv 1503.02531)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convmixer.config import TrainConfig
from convmixer.data import DatasetInfo
from convmixer.errors import InputError
from convmixer.models import ConvMixer, build_model, load_weights
from convmixer.runs import RunDir, TeacherRecord
from convmixer.training.initial import fingerprint


@dataclass(frozen=True)
class Teacher:
    """A trained network that answers for the images of a training step."""

    model: ConvMixer
    record: TeacherRecord
    scale: Tensor
    """(C, 1, 1) float32: with ``shift``, from the images as the run normalises them to the teacher's own."""
    shift: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) as the run normalises them → logits (N, K), without a gradient."""
        with torch.no_grad():
            logits: Tensor = self.model(images * self.scale + self.shift)
        return logits


def load_teacher(settings: TrainConfig, info: DatasetInfo, device: torch.device) -> Teacher | None:
    """The teacher that ``settings`` name, on ``device``, or None. Takes random numbers of PyTorch's global generator.

    Args:
        settings: ``teacher`` is the directory of a finished run.
        info: the run's data, of whose classes, channels and size the teacher's have to be.
        device: where it is to answer.

    Raises:
        InputError: no run, none that finished, or one of other images.
    """
    if settings.teacher is None:
        return None
    run = RunDir.existing(settings.teacher)
    config, own = run.config(), run.dataset()
    if not run.has_weights():
        status = run.status()
        raise InputError(f"`teacher`: {run.path} has no {run.weights.name}; the run is {status}, let it finish.")
    if tuple(own.classes) != tuple(info.classes):
        raise InputError(f"`teacher`: {run.path} has other classes than these data; give a run on these classes.")
    if (own.channels, own.image_size) != (info.channels, info.image_size):
        raise InputError(
            f"`teacher`: {run.path} is for images of {own.channels} channels and {own.image_size} pixels, these have "
            f"{info.channels} and {info.image_size}; give a run on images of this kind."
        )
    if settings.image_size_start is not None and settings.image_size_start < config.architecture.patch_size:
        raise InputError(
            f"`image_size_start`: {settings.image_size_start} is less than a patch of the teacher "
            f"({config.architecture.patch_size}); give at least as much."
        )
    model = build_model(config.architecture, len(own.classes), own.channels, "plain")
    load_weights(model, run.weights)
    record = TeacherRecord(
        source=str(settings.teacher), sha256=fingerprint(model.state_dict()), identity=config.identity_hash()
    )
    mean, std, own_mean, own_std = (
        torch.tensor(values, device=device).view(-1, 1, 1) for values in (info.mean, info.std, own.mean, own.std)
    )
    model = model.to(device).eval().requires_grad_(requires_grad=False)
    return Teacher(model, record, std / own_std, (mean - own_mean) / own_std)


def check_same_teacher(run: RunDir, teacher: Teacher | None) -> None:
    """Raises InputError if a run that goes on began with other weights of its teacher."""
    began = run.teacher()
    if began and teacher and began.sha256 != teacher.record.sha256:
        raise InputError(
            f"{run.path}: cannot be resumed. `teacher`: {teacher.record.source} has other weights than when this run "
            "began; put them back, or choose another --out."
        )


def distillation_loss(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher ‖ student) of the probabilities at temperature T: the mean over images.

    The factor T² leaves the gradient its size whatever T is.

    Args:
        logits: (N, K) of the student.
        answers: (N, K) logits of the teacher.
        temperature: T.
    """
    student, teacher = (F.log_softmax(values.float() / temperature, 1) for values in (logits, answers))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
