"""Batches follow from seed, epoch and position alone, however they are prepared, and nothing waits for the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convmixer.config import AugmentConfig
from convmixer.data import DatasetInfo, Split
from convmixer.data.augment import Augment
from convmixer.data.batches import Normalize, TrainBatches
from convmixer.data.mixing import Mixing
from convmixer.data.transform import Transform
from tests.helpers.images import batch, picture_batch

CLASSES = 7
ALL = AugmentConfig(
    crop="pad",
    crop_fill="reflect",
    flip=True,
    randaugment=2,
    trivialaugment=True,
    color_jitter=0.3,
    erasing=0.5,
    cutout=4,
)
CONFIGS = [
    ALL,
    replace(ALL, crop="resized", crop_scale=0.4, flip_mode="alternating"),
    replace(ALL, mixup=0.4, cutmix=1.0, mix_probability=0.7),
    replace(ALL, mixup=0.4),
    AugmentConfig(cutmix=1.0),
    AugmentConfig(),
]


def info(channels: int, size: int) -> DatasetInfo:
    return DatasetInfo(
        name="pictures",
        classes=tuple("abcdefg"),
        image_size=size,
        channels=channels,
        mean=(0.5, 0.4, 0.3)[:channels],
        std=(0.2, 0.3, 0.25)[:channels],
        mirror=True,
        sizes={},
        fingerprint="",
    )


def batches(
    config: AugmentConfig, count: int, batch_size: int, chunk: int | None = None, **options: Any
) -> TrainBatches:
    """``count`` pictures whose first pixel is their number."""
    channels, size, seed = options.get("channels", 3), options.get("size", 12), options.get("seed", 0)
    images = picture_batch(1, channels, size, count)
    about, device = info(channels, size), torch.device("cpu")
    return TrainBatches(
        Split(images, torch.arange(count) % CLASSES),
        batch_size,
        seed,
        Augment(config, mean=about.mean, mirror=about.mirror),
        Normalize(about, device, options.get("channels_last", False)),
        device,
        Mixing.of(config, CLASSES),
        chunk=chunk,
    )


def assert_same(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> None:
    assert len(ours) == len(theirs)
    for (images, targets), (others, labels) in zip(ours, theirs, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(targets, labels)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.sampled_from(CONFIGS),
    st.integers(2, 60),
    st.integers(1, 20),
    st.integers(1, 12),
    st.sampled_from([(1, 8), (3, 8), (3, 13)]),
    st.integers(0, 3),
    st.data(),
)
def test_no_bit_depends_on_the_chunk_or_the_start(
    config: AugmentConfig, count: int, batch_size: int, chunk: int, shape: tuple[int, int], epoch: int, data: Any
) -> None:
    channels, size = shape
    single = batches(config, count, batch_size, 1, channels=channels, size=size)
    chunked = batches(config, count, batch_size, chunk, channels=channels, size=size)
    start = data.draw(st.integers(0, len(single)))
    expected = list(single.epoch(epoch))
    assert len(expected) == len(single) == count // min(count, batch_size)
    assert_same(list(chunked.epoch(epoch)), expected)
    assert_same(list(chunked.epoch(epoch, start)), expected[start:])


def test_a_cpu_prepares_a_thousand_small_images_at_once_or_one_batch_of_large_ones() -> None:
    assert batches(ALL, 300, 128, size=32).chunk == 8
    assert batches(ALL, 4, 2, size=900).chunk == 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}], ids=str)
def test_seed_and_epoch_change_the_batches(change: dict[str, int]) -> None:
    first = next(batches(ALL, 40, 20).epoch(0))[0]
    other = next(batches(ALL, 40, 20, seed=change.get("seed", 0)).epoch(change.get("epoch", 0)))[0]
    assert not torch.equal(first, other)


def test_an_epoch_shows_every_image_once() -> None:
    whole = batches(AugmentConfig(flip=False), 40, 10, chunk=3)
    images, labels = zip(*whole.epoch(2), strict=True)
    expected = whole.normalize(whole.images)
    found = torch.cat(images).flatten(1)
    order = torch.tensor([int((expected.flatten(1) == image).all(1).nonzero()[0]) for image in found])
    assert sorted(order.tolist()) == list(range(40))
    assert torch.equal(torch.cat(labels), whole.labels[order])


def test_alternating_flip_shows_both_orientations_in_turn() -> None:
    config = AugmentConfig(flip=True, flip_mode="alternating")
    whole = batches(config, 200, 20, chunk=4)
    upright = whole.normalize(whole.images).flatten(1)
    mirrored = whole.normalize(whole.images.flip(3)).flatten(1)
    history = []
    for epoch in range(4):
        flipped = torch.full((200,), -1)
        for image in torch.cat([images for images, _ in whole.epoch(epoch)]).flatten(1):
            for which, reference in enumerate((upright, mirrored)):
                flipped[(reference == image).all(1)] = which
        history.append(flipped)
    distinct = ~(upright == mirrored).all(1)
    assert all((flipped >= 0).all() for flipped in history)
    assert torch.equal(history[0][distinct], history[2][distinct])
    assert torch.equal(history[0][distinct], 1 - history[1][distinct])
    assert torch.equal(history[1][distinct], history[3][distinct])
    assert 60 < int(history[0].sum()) < 140


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_are_normalised_and_of_the_wanted_layout(config: AugmentConfig, channels_last: bool) -> None:
    for images, targets in batches(config, 30, 10, chunk=2, channels_last=channels_last).epoch(0):
        assert (images.shape, images.dtype) == ((10, 3, 12, 12), torch.float32)
        assert images.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        if config.mixup or config.cutmix:
            assert (targets.shape, targets.dtype) == ((10, CLASSES), torch.float32)
        else:
            assert (targets.shape, targets.dtype) == ((10,), torch.int64)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_is_read_back_from_the_device(config: AugmentConfig, channels: int) -> None:
    """Tensors on the meta device have no values: whatever would have to wait for one cannot be done with them."""
    meta = torch.device("meta")
    augment = Augment(config, mean=(0.5,) * channels, mirror=True)
    circumstances = batch(64, 16)
    images = torch.empty(64, channels, 16, 16, dtype=torch.uint8, device=meta)
    images = augment.apply(images, [augment.sample(circumstances)])
    images = Normalize(info(channels, 16), meta)(images)
    mixing = Mixing.of(config, CLASSES)
    if mixing:
        labels = torch.empty(64, dtype=torch.int64, device=meta)
        images, targets = mixing.mix(images, labels, mixing.sample(circumstances))
        assert targets.device == meta
    assert images.device == meta


def test_the_meta_device_would_notice() -> None:
    class Waits:
        def apply(self, images: Tensor, draw: Any) -> Tensor:
            return images[images.amax((1, 2, 3)) > 0]

    stage: Transform = Waits()  # type: ignore[assignment]
    with pytest.raises((NotImplementedError, RuntimeError)):
        stage.apply(torch.empty(2, 1, 4, 4, dtype=torch.uint8, device="meta"), None)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_gpu_gives_the_same_batches_and_never_waits(config: AugmentConfig) -> None:
    ours = batches(config, 60, 10)
    expected = list(ours.epoch(1))
    device = torch.device("cuda")
    there = TrainBatches(
        Split(ours.images, ours.labels), 10, 0, ours.augment, Normalize(info(3, 12), device), device, ours.mixing
    )
    assert there.chunk > 1
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = list(there.epoch(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same([(images.cpu(), targets.cpu()) for images, targets in found], expected)
