"""From a configuration and data to the model and the batches of a run."""

from __future__ import annotations

from functools import partial

import torch

from convmixer.config import Engine, RunConfig, TrainConfig
from convmixer.data import Dataset, DatasetInfo
from convmixer.data.augment import Augment
from convmixer.data.batches import Normalize, TrainBatches
from convmixer.data.mixing import Mixing
from convmixer.models import ConvMixer, build_model
from convmixer.runtime.device import autocast
from convmixer.training.sizes import check_sizes, image_size_in


def new_model(config: RunConfig, info: DatasetInfo, device: torch.device) -> ConvMixer:
    """The model at the start of a run, on ``device``. Seeds PyTorch's global generator, which the run goes on with."""
    torch.manual_seed(config.seed)
    model = build_model(config.architecture, len(info.classes), info.channels, config.train.engine)
    model.init_residual_gamma(config.train.init_residual_gamma)
    layout = torch.channels_last if config.train.channels_last else torch.preserve_format
    return model.to(device, memory_format=layout)  # type: ignore[call-overload,no-any-return]


def train_batches(config: RunConfig, dataset: Dataset, device: torch.device) -> TrainBatches:
    """The training images of a run, augmented. Raises InputError where a size does not fit them."""
    info = dataset.info
    return TrainBatches(
        dataset.splits["train"],
        check_sizes(config, info),
        config.seed,
        Augment(config.augment, mean=info.mean, mirror=info.mirror),
        Normalize(info, device, config.train.channels_last),
        device,
        Mixing.of(config.augment, len(info.classes)),
        size_in=partial(image_size_in, config.train, full=info.image_size, patch=config.architecture.patch_size),
    )


def settled_engine(
    model: ConvMixer, batches: TrainBatches, settings: TrainConfig, precision: torch.dtype, *, captured: bool
) -> Engine:
    """What "auto" is for a run's batches: settled, so that evaluation and resuming do not choose anew."""
    with autocast(batches.device, precision):
        shape = (batches.batch_size // settings.accumulate, *batches.images.shape[1:])
        return model.engine_for(torch.zeros(shape, device=batches.device), captured=captured)
