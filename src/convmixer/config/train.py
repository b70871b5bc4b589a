"""The optimisation of a run, and how it is carried out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from convmixer.config.fields import (
    INCIDENTAL,
    LATER,
    Amount,
    Device,
    Engine,
    Optimizer,
    Positive,
    Precision,
    Probability,
    Schedule,
    Tta,
)
from convmixer.errors import InputError, nearest
from convmixer.parts.freezing import frozen_modules
from convmixer.records import Checked

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """The optimisation: a learning rate that changes every step, and what is done with it."""

    epochs: Positive = 25
    """Passes over the training images."""
    batch_size: Annotated[int, Meta(ge=2, le=2**31 - 1)] | None = None
    """Images in a step; by default the recipe's, but smaller where an epoch would have fewer than 40 steps, or (none)
    the largest power of two from 16 to 256 with which it has 40. A last, smaller batch is left out (the order changes
    every epoch)."""
    accumulate: Positive = 1
    """Parts of a batch that go through the model one after the other, to save memory; the statistics of batch
    normalisation are those of a part."""
    init_from: str | None = field(default=None, metadata=LATER)
    """Trained weights to start from: a run directory, a file, timm:NAME, or hub:OWNER/REPOSITORY (Hugging Face). Other
    classes get a new head."""
    freeze: str = field(default="", metadata=LATER)
    """Parts that are not trained, between commas: stem, blocks.0-3 (blocks by number), blocks, head, or features (all
    but the head)."""
    backbone_lr_scale: Amount = field(default=1.0, metadata=LATER)
    """Factor on the learning rate of everything but the head, for fine-tuning."""
    teacher: str | None = field(default=None, metadata=LATER)
    """Directory of a finished run on the same classes, whose answers to the augmented images are learned beside the
    labels (distillation, arXiv 1503.02531)."""
    teacher_weight: Annotated[float, Meta(ge=0, le=1)] = field(default=0.5, metadata=LATER)
    """Share of the teacher's answers in the training loss; the labels have the rest."""
    teacher_temperature: Annotated[float, Meta(ge=0.1, le=1000)] = field(default=4.0, metadata=LATER)
    """What the logits of both networks are divided by before their probabilities are compared."""
    optimizer: Optimizer = "adamw"
    """adamw; sgd (with Nesterov momentum); muon (orthogonal steps for the weights of pointwise and patch convolutions,
    with a learning rate of their own, and adamw for all others)."""
    lr: Amount = 0.01
    """Peak learning rate."""
    muon_lr: Amount = 0.02
    """Peak learning rate of muon's orthogonal steps."""
    momentum: Probability = 0.9
    """Momentum of sgd, and of muon's orthogonal steps."""
    weight_decay: Amount = 0.01
    """Weight decay: decoupled (times the learning rate) in adamw and muon, part of the gradient in sgd."""
    decay_norms: bool = True
    """Weight decay on normalisations and biases too."""
    clip_norm: Amount = 1.0
    """Largest norm of the gradient of all parameters together; 0 does not clip."""
    schedule: Schedule = "cosine"
    """cosine (linear warm-up, then half a cosine to 0), linear (linear warm-up, then a line to 0), triangular (0 to
    peak at 2/5, 1/20 of it at 4/5, then 0), onecycle (half a cosine up until 3/10, then half a cosine to 0) or constant
    (linear warm-up, then the peak; a finished run can be extended: --resume --epochs MORE)."""
    warmup_epochs: Amount = 1.0
    """Length of the linear warm-up of cosine, linear and constant in epochs, at most half of the run."""
    init_residual_gamma: Amount = 1.0
    """Initial weight of the batch normalisation that ends each residual branch; below 1 the branches are down-weighted
    at initialisation (arXiv 1706.02677, section 5.1, uses 0)."""
    label_smoothing: Probability = 0.0
    """Probability mass spread evenly over all classes in the training loss."""
    ema_decay: Probability = 0.0
    """Decay for each step of a moving average of the weights, which is then what is kept; 0 is off."""
    image_size_start: Positive | None = None
    """Side in pixels that training images are scaled down to in the first epoch; it then rises linearly, in whole
    patches, to the full size at 3/5 of the run. By default all epochs see the full size."""
    precise_bn: bool | None = field(default=None, metadata=LATER)
    """Estimate the statistics of batch normalisation anew for every evaluation, from training images without
    augmentation (arXiv 2105.07576): their running averages come too late in a short run. By default where a run has
    fewer than 40 steps in all."""
    eval_every: Positive = 1
    """Epochs from one evaluation on held-out images to the next; the last epoch always has one."""
    tta: Tta = "none"
    """Test-time augmentation whose accuracy is reported beside the plain one, and chooses nothing: flip (mean of the
    probabilities of an image and its mirror image, where training mirrors), or shifts (both, and moved by a pixel)."""
    precision: Precision = "auto"
    """auto: bfloat16 or float16 on a GPU that has it, else float32. float16 falls back to float32 without a GPU. A CPU
    with instructions for bfloat16 trains faster with it."""
    channels_last: bool = False
    """Keep activations as NHWC in memory."""
    device: Device = field(default="auto", metadata=INCIDENTAL)
    """Where to run; auto takes cuda, mps or cpu, whichever is found first."""
    engine: Engine = field(default="auto", metadata=INCIDENTAL)
    """How the model is executed: by PyTorch's own modules (plain), by fused kernels (fast), or by whichever is measured
    to be faster on this machine (auto). A resumed run stays with the engine it began with."""
    cuda_graph: bool = field(default=True, metadata=INCIDENTAL)
    """On a CUDA device, record an update once and replay it, which spares the time between its operations."""
    checkpoint_minutes: Amount = field(default=10.0, metadata=INCIDENTAL)
    """Minutes between checkpoints within an epoch; they are written after epochs as well."""
    track: str = field(default="tensorboard", metadata=INCIDENTAL)
    """Trackers to record metrics, settings and pictures with, as in tensorboard,wandb: tensorboard (files in the run
    directory), wandb, trackio, mlflow; or none."""

    def trackers(self) -> tuple[str, ...]:
        """The names in ``track``."""
        names = tuple(dict.fromkeys(name.strip() for name in self.track.split(",")))
        return () if names == ("none",) else names

    def _problems(self) -> Iterator[str]:
        for name in self.trackers():
            if name not in TRACKERS:
                yield f"`track`: {name!r} is not a tracker; {nearest(name, (*TRACKERS, 'none'))}"
        try:
            frozen_modules(self.freeze)
        except InputError as error:
            yield error.args[0]
