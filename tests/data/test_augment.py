"""The whole augmentation against Pillow, its draws against torchvision's rules, and what callers rely on."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from convmixer.config import AugmentConfig
from convmixer.data.augment import Augment
from convmixer.data.color import ColorJitter, ColorJitterParams
from convmixer.data.crops import Flip, FlipParams, PadCrop, PadCropParams, ResizedCrop, ResizedCropParams
from convmixer.data.erasing import Cutout, RandomErasing, Rectangles
from convmixer.data.randaugment import OperationParams, RandAugment, TrivialAugment
from tests.helpers.images import (
    NAMES,
    assert_uniform,
    batch,
    from_pillow,
    picture_batch,
    pillow_operation,
    to_pillow,
)

MEAN = (0.4914, 0.4822, 0.4465)
EVERYTHING = AugmentConfig(
    crop="resized",
    crop_scale=0.3,
    flip=True,
    randaugment=2,
    trivialaugment=True,
    color_jitter=0.4,
    erasing=0.5,
    cutout=5,
)


def augmented(config: AugmentConfig, images: Tensor, seed: int = 0, mirror: bool = False) -> Tensor:
    augment = Augment(config, mean=MEAN[: images.shape[1]], mirror=mirror)
    return augment.apply(images, [augment.sample(batch(len(images), images.shape[-1], seed))])


def pillow_stage(image: Image.Image, draw: Any, which: int) -> Image.Image:
    """One stage of torchvision on one Pillow image, with the parameters drawn for image ``which``."""
    size = image.width
    if isinstance(draw, OperationParams):
        for number, value in zip(draw.operation[which].tolist(), draw.value[which].tolist(), strict=True):
            image = pillow_operation(NAMES[number], image, value)
        return image
    own = {name: value[which].tolist() for name, value in vars(draw).items()}
    match draw:
        case PadCropParams():
            padded = ImageOps.expand(image, border=size, fill=0)
            left, top = own["left"] + size, own["top"] + size
            return padded.crop((left, top, left + size, top + size))
        case ResizedCropParams():
            left, top, side = own["left"], own["top"], own["side"]
            square = image.crop((left, top, left + side, top + side))
            return square.resize((size, size), Image.Resampling.BILINEAR)
        case FlipParams():
            return ImageOps.mirror(image) if own["mirrored"] else image
        case ColorJitterParams():
            for number in own["order"]:
                change = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[number]
                image = change(image).enhance(own["factor"][number])
            return image
        case Rectangles():
            colour = tuple(round(255 * channel) for channel in MEAN)
            erased = image.copy()
            box = (own["left"], own["top"], own["left"] + own["width"], own["top"] + own["height"])
            erased.paste(colour if image.mode == "RGB" else colour[0], box)
            return erased
    raise AssertionError(draw)


def shown(stages: Sequence[Any], draws: Sequence[Any], size: int) -> list[Any]:
    """The draws of several stages, those of rectangles as these."""
    pairs = zip(stages, draws, strict=True)
    return [stage.rectangles(draw, size) if isinstance(stage, RandomErasing) else draw for stage, draw in pairs]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(8, 40), st.sampled_from([1, 3]), st.sampled_from(["pad", "resized"]))
def test_everything_at_once_is_pillows(seed: int, size: int, channels: int, crop: Any) -> None:
    images = picture_batch(seed, channels, size, count=12)
    augment = Augment(replace(EVERYTHING, crop=crop), mean=MEAN[:channels], mirror=False)
    draws = augment.sample(batch(len(images), size, seed))
    result = augment.apply(images, [draws])
    assert len(draws) == 7
    for which, image in enumerate(images):
        expected = to_pillow(image)
        for draw in shown(augment.transforms, draws, size):
            expected = pillow_stage(expected, draw, which)
        assert torch.equal(result[which], from_pillow(expected))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(8, 64), st.sampled_from([1, 3]))
def test_each_stage_is_pillows(seed: int, size: int, channels: int) -> None:
    images = picture_batch(seed, channels, size)
    colour = tuple(round(255 * channel) for channel in MEAN[:channels])
    for stage in (
        PadCrop(4),
        PadCrop(None),
        ResizedCrop(0.01),
        Flip(),
        Flip(alternating=True),
        TrivialAugment(),
        ColorJitter(1.5),
        RandomErasing(0.8, colour),
        Cutout(5, colour),
    ):
        draw: Any = stage.sample(batch(len(images), size, seed))
        (seen,) = shown([stage], [draw], size)
        expected = [from_pillow(pillow_stage(to_pillow(image), seen, which)) for which, image in enumerate(images)]
        assert torch.equal(stage.apply(images, draw), torch.stack(expected)), stage


@pytest.mark.skipif(
    "CONVMIXER_TEST_IMAGES" not in os.environ, reason="needs CONVMIXER_TEST_IMAGES, a folder with train/ and test/"
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("stage", [RandAugment(3, 12), TrivialAugment(), ColorJitter(0.6)], ids=str)
def test_real_images_are_changed_as_pillow_does(mode: str, stage: Any) -> None:
    files = sorted(Path(os.environ["CONVMIXER_TEST_IMAGES"]).glob("test/*/*"))[::97][:100]
    pictures = [Image.open(file).convert(mode).resize((32, 32)) for file in files]
    draw = stage.sample(batch(len(pictures), 32, 5))
    found = stage.apply(torch.stack([from_pillow(picture) for picture in pictures]), draw)
    expected = [from_pillow(pillow_stage(picture, draw, which)) for which, picture in enumerate(pictures)]
    assert len(pictures) == 100
    assert torch.equal(found, torch.stack(expected))


def test_a_configuration_that_asks_for_nothing_returns_the_input() -> None:
    images = picture_batch(0, 3, 16)
    for config in (
        AugmentConfig(),
        AugmentConfig(flip=False, crop="pad", crop_padding=0),
        AugmentConfig(crop="resized", crop_scale=1.0),
    ):
        assert augmented(config, images) is images


def test_a_resized_crop_of_the_whole_image_is_the_image() -> None:
    images, zero = picture_batch(0, 3, 16), torch.zeros(8, dtype=torch.int64)
    assert torch.equal(ResizedCrop(0.5).apply(images, ResizedCropParams(zero, zero, zero + 16)), images)


BASE = AugmentConfig(crop="resized", crop_scale=0.5, flip=True, randaugment=1, color_jitter=0.1, erasing=0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"crop": "none"},
        {"crop": "pad"},
        {"crop_scale": 0.3},
        {"flip": False},
        {"randaugment": 2},
        {"randaugment": 0},
        {"randaugment_magnitude": 20},
        {"color_jitter": 0.3},
        {"color_jitter": 0.0},
        {"erasing": 1.0},
        {"erasing": 0.0},
        {"trivialaugment": True},
        {"cutout": 5},
        {"flip_mode": "alternating"},
    ],
    ids=str,
)
def test_every_field_changes_the_result(change: dict[str, Any]) -> None:
    images = picture_batch(0, 3, 16, count=16)
    assert not torch.equal(augmented(replace(BASE, **change), images), augmented(BASE, images))


def test_padding_changes_the_result() -> None:
    images = picture_batch(0, 3, 16, count=16)
    config = AugmentConfig(crop="pad")
    for change in ({"crop_padding": 3}, {"crop_fill": "reflect"}):
        assert not torch.equal(augmented(config, images), augmented(replace(config, **change), images))


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(3, 24), st.sampled_from([1, 3]), st.integers(1, 30))
def test_reflected_padding_is_numpys(seed: int, size: int, channels: int, padding: int) -> None:
    images = picture_batch(seed, channels, size)
    stage = PadCrop(padding, "reflect")
    draw = stage.sample(batch(len(images), size, seed))
    for result, image, top, left in zip(stage.apply(images, draw), images, draw.top, draw.left, strict=True):
        frame = ((0, 0), (padding, padding), (padding, padding))
        padded = np.pad(image.numpy(), frame, mode="reflect")
        window = padded[:, top + padding : top + padding + size, left + padding : left + padding + size]
        assert np.array_equal(result.numpy(), window)


def test_alternating_flips_turn_with_the_epoch() -> None:
    stage = Flip(alternating=True)
    first, second, third = (stage.sample(batch(1000, 32, 0, epoch)).mirrored for epoch in range(3))
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)
    assert_uniform(torch.bincount(first.int(), minlength=2))


def test_flip_is_the_datas_choice_unless_given() -> None:
    images = picture_batch(0, 3, 16, count=16)
    for flip, mirror in ((None, True), (True, False), (True, True)):
        assert not torch.equal(augmented(AugmentConfig(flip=flip), images, mirror=mirror), images)
    for flip, mirror in ((None, False), (False, True), (False, False)):
        assert augmented(AugmentConfig(flip=flip), images, mirror=mirror) is images


def test_the_same_state_gives_the_same_bits_and_moves_on() -> None:
    images = picture_batch(0, 3, 32, count=32)
    kept = images.clone()
    augment = Augment(EVERYTHING, mean=MEAN, mirror=True)
    source = batch(32, 32)
    state = source.generator.get_state()
    first, second = (augment.apply(images, [augment.sample(source)]) for _ in range(2))
    assert not torch.equal(first, second)
    source.generator.set_state(state)
    assert torch.equal(augment.apply(images, [augment.sample(source)]), first)
    assert torch.equal(images, kept)


@pytest.mark.gpu
@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_a_gpu_gives_the_same_bits(crop: Any) -> None:
    images = picture_batch(0, 3, 32, count=256)
    config = replace(EVERYTHING, crop=crop)
    assert torch.equal(augmented(config, images.cuda()).cpu(), augmented(config, images))


def test_equal_images_of_a_batch_become_different() -> None:
    images = picture_batch(0, 3, 32)[:1].repeat(64, 1, 1, 1)
    for config in (EVERYTHING, AugmentConfig(crop="pad"), AugmentConfig(color_jitter=0.3)):
        assert len({image.numpy().tobytes() for image in augmented(config, images)}) > 30


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 8, 8), (5, 1, 8, 8), (0, 3, 8, 8), (3, 3, 57, 57)], ids=str)
def test_any_batch_and_size(shape: tuple[int, ...]) -> None:
    images = torch.randint(256, shape, dtype=torch.uint8)
    for crop in ("pad", "resized"):
        result = augmented(replace(EVERYTHING, crop=crop), images)
        assert (result.shape, result.dtype) == (images.shape, torch.uint8)
        assert result.is_contiguous()


def test_memory_format_does_not_matter() -> None:
    images = picture_batch(0, 3, 32, count=32)
    strided = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augmented(EVERYTHING, strided), augmented(EVERYTHING, images))


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 9).byte(), torch.zeros(2, 1, 8, 8).byte()],
    ids=["float", "oblong", "channels"],
)
def test_other_images_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="expected square uint8 images of 3 channels"):
        Augment(EVERYTHING, mean=MEAN, mirror=True).apply(images, [])


def test_padded_windows_are_uniform_and_independent() -> None:
    for side, padding in ((8, 1), (32, 4), (4, 0)):
        own = PadCrop(None).sample(batch(500, side))
        assert own.top.abs().max() == own.left.abs().max() == padding
    draw = PadCrop(4).sample(batch(40_500, 32))
    assert_uniform(torch.bincount((draw.top + 4) * 9 + draw.left + 4, minlength=81))


def test_resized_squares_have_uniform_area_and_position() -> None:
    size = 256
    draw = ResizedCrop(0.2).sample(batch(20_000, size))
    area = (draw.side / size) ** 2
    assert_uniform(torch.histc(area, 8, 0.2, 1.0))
    assert (draw.side.min() / size) ** 2 == pytest.approx(0.2, abs=0.01)
    for start in (draw.top, draw.left):
        room = size - draw.side
        assert (start >= 0).all()
        assert (start <= room).all()
        assert (start == room).any()
        wide = room > 64
        assert_uniform(torch.histc((start[wide] + 0.5) / (room[wide] + 1), 4, 0, 1))


def test_half_of_the_images_are_mirrored() -> None:
    assert_uniform(torch.bincount(Flip().sample(batch(10_000, 32)).mirrored.int(), minlength=2))


@pytest.mark.parametrize(("strength", "low", "high"), [(0.2, 0.8, 1.2), (2.0, 0.0, 3.0)])
def test_jitter_factors_and_orders_are_uniform(strength: float, low: float, high: float) -> None:
    draw = ColorJitter(strength).sample(batch(12_000, 32))
    assert draw.factor.min() >= low
    assert draw.factor.max() <= high
    for factors in draw.factor.T:
        assert_uniform(torch.histc(factors, 8, low, high))
    orders = draw.order @ torch.tensor([9, 3, 1])
    assert_uniform(orders.unique(return_counts=True)[1])
    assert len(orders.unique()) == 6


def torchvision_rectangle(size: int, source: random.Random) -> tuple[int, int, int, int]:
    """Top, left, height and width of the first of ten rectangles that fits, or a rectangle of no size."""
    for _ in range(10):
        area = size * size * source.uniform(0.02, 0.33)
        ratio = math.exp(source.uniform(math.log(0.3), math.log(3.3)))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height < size and width < size:
            return source.randint(0, size - height), source.randint(0, size - width), height, width
    return 0, 0, 0, 0


@pytest.mark.parametrize("size", [8, 32])
def test_erased_rectangles_follow_the_rule(size: int) -> None:
    count, source = 20_000, random.Random(0)
    stage = RandomErasing(1.0, (0, 0, 0))
    draw = stage.rectangles(stage.sample(batch(count, size)), size)
    drawn = torch.stack([draw.top, draw.left, draw.height, draw.width], dim=1)
    expected = torch.tensor([torchvision_rectangle(size, source) for _ in range(count)])
    # Top, left, height and width one by one, and jointly as the area and the far corner.
    for ours, theirs in (
        *zip(drawn.T, expected.T, strict=True),
        (drawn[:, 2] * drawn[:, 3], expected[:, 2] * expected[:, 3]),
        (drawn[:, 0] + drawn[:, 2], expected[:, 0] + expected[:, 2]),
    ):
        both = [torch.bincount(values, minlength=size * size).double() for values in (ours, theirs)]
        assert ((both[0] - both[1]).abs() < 5 * (both[0] + both[1]).sqrt() + 1).all()
        assert ours.double().mean() == pytest.approx(float(theirs.double().mean()), rel=0.03)


def test_erasing_hits_the_given_part_of_the_images() -> None:
    stage = RandomErasing(0.25, (0,))
    draw = stage.rectangles(stage.sample(batch(10_000, 32)), 32)
    assert (draw.height > 0).double().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(draw.height > 0, draw.width > 0)


def test_an_image_is_left_alone_where_no_rectangle_fits() -> None:
    images = picture_batch(0, 1, 8)
    stage = RandomErasing(1.0, (9,), area=(0.9, 0.9), ratio=(3.0, 3.0))
    assert torch.equal(stage.apply(images, stage.sample(batch(len(images), 8))), images)


@pytest.mark.parametrize("side", [1, 4, 7, 40])
def test_cutout_is_a_clipped_square_about_a_uniform_pixel(side: int) -> None:
    size = 16
    draw = Cutout(side, (0,)).sample(batch(64_000, size))
    corners = [[max(0, at - side // 2), min(size, at - side // 2 + side)] for at in range(size)]
    expected = torch.tensor([[start, end - start] for start, end in corners])
    for start, length in ((draw.top, draw.height), (draw.left, draw.width)):
        pairs, counts = torch.stack([start, length], 1).unique(dim=0, return_counts=True)
        different, multiple = expected.unique(dim=0, return_counts=True)
        assert torch.equal(pairs, different)
        assert ((counts - 4000.0 * multiple).abs() < 5 * (4000.0 * multiple).sqrt() + 1).all()
    joint = (draw.top * size + draw.left).unique(return_counts=True)[1]
    assert len(joint) == len(draw.top.unique()) * len(draw.left.unique())


def test_erased_pixels_have_the_mean_colour() -> None:
    for config in (AugmentConfig(erasing=1.0), AugmentConfig(cutout=9)):
        result = augmented(config, torch.zeros(16, 3, 32, 32, dtype=torch.uint8))
        colours = result.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0)
        assert colours.tolist() == [[0, 0, 0], [125, 123, 114]]
