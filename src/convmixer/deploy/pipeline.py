"""What ``convmixer compress`` does to a run: the settings of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from convmixer.config.fields import Amount, Count, Positive
from convmixer.records import Checked

What = Literal["channels", "blocks"]
Criterion = Literal["l1", "bn", "taylor"]
Backend = Literal["onnxruntime", "openvino", "nncf"]
LEAST = 16
"""Images to calibrate with."""


@dataclass(frozen=True, kw_only=True)
class Pipeline(Checked):
    """What is done to a run, in the order of the fields."""

    prune: What | None = None
    """Drop channels (in all layers alike: a smaller --dim) or whole blocks (a smaller --depth)."""
    ratio: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    """Share of the channels or blocks that goes; multiply-adds go with its square for channels."""
    prune_steps: Positive = 1
    """Prune in so many steps of equal factors, with a share of the fine-tuning after each."""
    criterion: Criterion = "l1"
    """Which channels matter least: l1, the weights that touch them; bn, the factors of batch normalisation; taylor,
    weight times gradient on training images. Of blocks, those go without which the loss on training images is least."""
    finetune: Count = 0
    """Epochs of training that follow, with the run's own settings."""
    lr_scale: Amount = 0.3
    """Factor on the run's learning rate for these epochs."""
    teacher: str | None = None
    """Run whose answers are learned beside the labels meanwhile, such as the run itself."""
    baseline: bool = False
    """Train the smaller network from scratch as well, for as long as the run and its fine-tuning took together."""
    quantize: Literal["int8"] | None = None
    """Convolutions and linear layers in 8 bits, ranges taken from training images."""
    qat: Count = 0
    """Epochs of training with that rounding before, at a hundredth of the run's learning rate."""
    backend: Backend = "onnxruntime"
    """Runtime that the files are for, and in which they are compared; nncf is OpenVINO with its own tool for int8."""
    calibration: Positive = 512
    """Training images that ranges, gradients and losses are taken from; all of them where there are fewer."""

    def _problems(self) -> Iterator[str]:
        if not (self.prune or self.finetune or self.quantize):
            yield "compress: nothing is to be done; give at least one of `prune`, `quantize` and `finetune`."
        if self.teacher and not self.finetune:
            yield "`teacher`: there is no training that it could help; give `finetune` a number of epochs."
        if self.baseline and not self.prune:
            yield "`baseline`: is the pruned network trained from scratch; it needs `prune`."
        if self.qat and not self.quantize:
            yield "`qat`: trains for 8 bits; add `quantize` int8."
        if self.qat and self.backend == "nncf":
            yield "`qat`: is for the rounding of the other backends' graphs; leave it out or change `backend`."
        if self.prune_steps > max(self.finetune, 1):
            yield f"`prune_steps`: {self.prune_steps} steps need an epoch of training each; give `finetune` as many."
        if self.calibration < LEAST:
            yield f"`calibration`: {self.calibration} images are too few; give {LEAST} or more."
