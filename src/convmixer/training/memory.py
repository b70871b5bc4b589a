"""How much memory a run takes, and which batches would fit where that is too much."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from convmixer.config import ModelConfig, RunConfig
from convmixer.data import DatasetInfo
from convmixer.models import build_model
from convmixer.runtime.device import choose_precision
from convmixer.runtime.memory import enough_memory, free_memory
from convmixer.training.sizes import check_sizes

_COPIES = {"sgd": 3, "muon": 3}  # of the parameters: themselves, gradients, what the optimiser keeps
_ADAM_COPIES = 4
_IMAGE_COPIES = 6  # of a batch's float32 pixels while they are augmented, normalised and passed on
_HEADROOM = 1.6  # gradients of activations and workspaces, beside what the backward pass needs of the forward pass
_MOST_KEPT = 16  # tensors of a block that the backward pass might need, by far
_SHARE = 0.9  # of the free memory that is promised


@dataclass(frozen=True)
class StepMemory:
    """What a step of training takes, as estimated from shapes, in bytes."""

    fixed: int
    """Parameters with gradients, the optimiser's state and an average."""
    for_image: int
    """What the backward pass needs of an image's forward pass."""
    pixels: int
    """An image of the batch, however many parts the batch has."""
    batch: int
    """Images in a step."""
    parts: int
    """That they go through the model in."""

    @classmethod
    def estimate(cls, config: RunConfig, info: DatasetInfo, device: torch.device, engine: str = "plain") -> StepMemory:
        """Of a run on a device. Raises InputError where a size does not fit the images."""
        settings = config.train
        half = choose_precision(settings.precision, device) is not torch.float32
        parameters, saved = _shapes(config.architecture, info.image_size, len(info.classes), info.channels)
        saved //= (2 if engine == "fast" else 1) * (2 if half else 1)  # the fast engine computes half of it anew
        copies = _COPIES.get(settings.optimizer, _ADAM_COPIES) + (settings.ema_decay > 0)
        return cls(
            fixed=copies * parameters,
            for_image=int(_HEADROOM * saved),
            pixels=_IMAGE_COPIES * 4 * info.channels * info.image_size**2,
            batch=check_sizes(config, info),
            parts=settings.accumulate,
        )

    @property
    def total(self) -> int:
        """All of it."""
        return self.fixed + self.batch * self.pixels + -(-self.batch // self.parts) * self.for_image

    def advice(self, free: int) -> str:
        """What to change if ``free`` bytes were too few: half a sentence; '' if they should have been enough."""
        if self.total <= free:
            return ""
        room = _SHARE * free - self.fixed
        need = f"a step takes about {_gib(self.total)}, and {_gib(free)} were free"
        fitting = int(room // (self.pixels + self.for_image))
        if fitting < 2:
            return f"{need}; choose a smaller --dim, --depth or --image-size, as no --batch-size would fit"
        batch = 1 << (fitting.bit_length() - 1)
        in_parts = int((room - self.batch * self.pixels) // self.for_image)
        parts = -(-self.batch // in_parts) if in_parts >= 2 else 0
        other = f", or --accumulate {parts}, which has the model see so many parts of a batch one after the other"
        return f"{need}: --batch-size {batch} would fit{other if parts else ''}"


@contextmanager
def memory_for(what: str, config: RunConfig, info: DatasetInfo, device: torch.device) -> Iterator[None]:
    """Within the block, a lack of memory for the run is an InputError that says which batches would fit."""
    free = free_memory(device)

    def advice() -> str:
        try:
            return StepMemory.estimate(config, info, device).advice(free) if free is not None else ""
        except RuntimeError:  # sizes that cannot even be multiplied
            return ""

    with enough_memory(what, advice):
        yield


def lack_of_memory_hint(config: RunConfig, info: DatasetInfo, device: torch.device, engine: str) -> str:
    """A sentence for the user if a step will hardly fit into memory, where the system may end the process unasked."""
    free, model = free_memory(device), config.architecture
    pixels = (info.image_size // model.patch_size) ** 2 * (config.train.batch_size or 1)
    if (
        free is None or 4 * _MOST_KEPT * model.dim * model.depth * pixels < free
    ):  # spares the estimate, which takes time
        return ""
    told = StepMemory.estimate(config, info, device, engine).advice(free)
    return f"This may need more memory than there is: {told}." if told else ""


@functools.cache
def _shapes(architecture: ModelConfig, image_size: int, n_classes: int, channels: int) -> tuple[int, int]:
    """Bytes of the parameters, and of what the plain model keeps of an image for its backward pass, in float32."""
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # shapes only: nothing is computed
        model = build_model(architecture, n_classes, channels, "plain").train()
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model(torch.empty(2, channels, image_size, image_size))
            F.cross_entropy(logits, torch.zeros(2, dtype=torch.int64))
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    return parameters, sum(storage.nbytes() for storage in kept.values()) // 2


def _gib(size: int) -> str:
    gib = size / 2**30
    return f"{gib:,.0f} GiB" if gib >= 100 else f"{gib:.3g} GiB"
