"""Sizes that follow from the data, and whether those that were asked for fit them."""

from __future__ import annotations

from convmixer.config import RunConfig, TrainConfig
from convmixer.data import DatasetInfo
from convmixer.errors import InputError

_STEPS = 40  # of an epoch, at least, where the batch size is left to the data
_SMALLEST, _LARGEST = 16, 256
_FEW_STEPS = 10  # in an epoch
_RISE = 0.6  # of the run, after which images are trained on in their full size


def batch_size_for(images: int) -> int:
    """The batch size for a training set: a power of two, large where an epoch still has enough steps."""
    fitting = max(images // _STEPS, 1)
    return min(max(1 << (fitting.bit_length() - 1), _SMALLEST), _LARGEST)


def fit_batch(config: RunConfig, info: DatasetInfo) -> tuple[RunConfig, str]:
    """The configuration with the recipe's batch size made to fit the data, and a sentence for the user, or ''.

    A recipe's batch size is made for large data: it is the largest one to take. One that the user gives stays.
    """
    batch, images = config.train.batch_size, info.sizes["train"]
    if batch is None or images // batch >= _STEPS:
        return config, ""
    smaller = min(batch, batch_size_for(images))
    if smaller == batch:
        return config, ""
    return config.replace(batch_size=smaller), (
        f"Batches of {smaller} instead of the recipe's {batch}: {images // smaller} steps an epoch instead of "
        f"{images // batch} with these {images:,} images; --batch-size {batch} takes the recipe's all the same."
    )


def image_size_in(settings: TrainConfig, epoch: int, full: int, patch: int) -> int:
    """Side of the training images in an epoch (from 0) of a run, a multiple of ``patch`` pixels, at most ``full``."""
    start = settings.image_size_start or full
    risen = min(epoch / (_RISE * settings.epochs), 1.0)
    return start + patch * round(risen * (full - start) / patch)


def few_steps_hint(config: RunConfig, info: DatasetInfo) -> str | None:
    """A sentence for the user if an epoch has so few steps that a smaller batch is the better choice."""
    batch = check_sizes(config, info)
    steps = info.sizes["train"] // batch
    if steps >= _FEW_STEPS:
        return None
    if (config.train.batch_size or 0) > batch:
        return (
            f"--batch-size {config.train.batch_size} is more than the {batch:,} training images: an epoch has 1 step "
            "only, with all of them; with a smaller one it will learn more."
        )
    count = f"{steps} step{'s' if steps > 1 else ''}"
    return f"An epoch has {count} only with batches of {batch}: with a smaller --batch-size it will learn more."


def check_sizes(config: RunConfig, info: DatasetInfo) -> int:
    """The images in a step. Raises InputError where a size does not fit the images."""
    patch, side = config.architecture.patch_size, info.image_size
    if side % patch:
        sizes = ", ".join(str(d) for d in range(1, side + 1) if side % d == 0)
        raise InputError(
            f"--patch-size: {patch} does not divide the {side} pixels of {info.name}; choose one of {sizes}."
        )
    start = config.train.image_size_start or side
    if start % patch or start > side:
        raise InputError(
            f"--image-size-start: {start} is not a number of whole patches of {patch} within the {side} pixels of "
            f"{info.name}; choose a multiple of {patch} up to {side}."
        )
    images, parts = info.sizes["train"], config.train.accumulate
    batch = min(config.train.batch_size or batch_size_for(images), images)
    if batch < 2 * parts:
        raise InputError(
            f"--accumulate: {parts} parts of a batch of {batch} have less than two images each; "
            f"choose at most {batch // 2}."
        )
    return batch
