"""Every operation against Pillow, pixel for pixel; the table and the draws against torchvision's rules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageOps
from torch import Tensor

from convmixer.data import randaugment
from convmixer.data.operations import apply_groups, autocontrast, copy_to_device, equalize, posterize, saturation
from convmixer.data.randaugment import (
    OPERATIONS,
    WIDE_OPERATIONS,
    Operation,
    OperationParams,
    RandAugment,
    TrivialAugment,
)
from tests.helpers.images import (
    NAMES,
    assert_uniform,
    batch,
    from_pillow,
    generator,
    picture_batch,
    pillow_operation,
    to_pillow,
)


def one_operation(name: str, images: Tensor, value: Tensor) -> Tensor:
    draw = OperationParams(torch.full((len(images), 1), NAMES.index(name)), value.double().expand(len(images), 1))
    return RandAugment(1, 0).apply(images, draw)


seeds, sizes, channels = st.integers(0, 2**32), st.integers(8, 40), st.sampled_from([1, 3])


@pytest.mark.parametrize("table", [OPERATIONS, WIDE_OPERATIONS], ids=["RandAugment", "TrivialAugment"])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(seeds, sizes, channels, st.integers(0, 30), st.booleans())
def test_operation_is_pillows(
    table: tuple[Operation, ...], name: str, seed: int, size: int, channels: int, magnitude: int, negative: bool
) -> None:
    images = picture_batch(seed, channels, size)
    operation = table[NAMES.index(name)]
    value = operation.values(size)[magnitude].double() * (-1 if operation.signed and negative else 1)
    expected = torch.stack([from_pillow(pillow_operation(name, to_pillow(image), float(value))) for image in images])
    torch.testing.assert_close(one_operation(name, images, value), expected, rtol=0, atol=0)


@settings(max_examples=25, deadline=None)
@given(seeds, sizes, channels, st.integers(1, 4), st.integers(0, 30))
def test_drawn_chain_is_pillows(seed: int, size: int, channels: int, steps: int, magnitude: int) -> None:
    images = picture_batch(seed, channels, size, count=16)
    stage = RandAugment(steps, magnitude)
    draw = stage.sample(batch(len(images), size, seed))
    for result, image, numbers, values in zip(
        stage.apply(images, draw), images, draw.operation, draw.value, strict=True
    ):
        expected = to_pillow(image)
        for number, value in zip(numbers.tolist(), values.tolist(), strict=True):
            expected = pillow_operation(NAMES[number], expected, value)
        assert torch.equal(result, from_pillow(expected))


def test_autocontrast_of_every_range_of_levels() -> None:
    # Python's float64 arithmetic falls just below an integer here and there; every (low, high) has its own table.
    for low in range(0, 256, 5):
        images = torch.stack([torch.arange(256).clamp(low, high) for high in range(low, 256)])
        images = images.to(torch.uint8).view(-1, 1, 16, 16)
        expected = torch.stack([from_pillow(ImageOps.autocontrast(to_pillow(image))) for image in images])
        assert torch.equal(autocontrast(images, torch.empty(0)), expected)


def test_equalize_cuts_levels_above_white() -> None:
    # 511 pixels below the brightest ones: the unit is 2 pixels, and the brightest level becomes (1 + 511) // 2 = 256.
    image = torch.full((1, 24, 24), 255, dtype=torch.uint8)
    image.view(-1)[:511] = torch.arange(511).to(torch.uint8) % 200
    result = equalize(image[None], torch.empty(0))[0]
    assert torch.equal(result, from_pillow(ImageOps.equalize(to_pillow(image))))
    assert (result[image == 255] == 255).all()


def test_table_at_magnitude_12_of_32_pixels() -> None:
    values = {row.name: float(row.values(32)[12]) for row in OPERATIONS}
    expected = {"ShearX": 0.12, "ShearY": 0.12, "TranslateX": 5.8006, "TranslateY": 5.8006, "Rotate": 12.0}
    expected |= dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.36)
    expected |= {"Posterize": 6.0, "Solarize": 153.0, "Identity": 0.0, "AutoContrast": 0.0, "Equalize": 0.0}
    assert values == pytest.approx(expected, abs=1e-4)
    assert len(values) == len(OPERATIONS) == 14
    assert [row.name for row in OPERATIONS if row.signed] == NAMES[1:10]


def torchvision_wide(magnitude: int) -> dict[str, float]:
    """TrivialAugmentWide's ranges at one of its 31 magnitudes, from torchvision's documentation and source."""
    part = magnitude / 30
    values = dict.fromkeys(("ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness"), 0.99 * part)
    values |= {"TranslateX": 32.0 * part, "TranslateY": 32.0 * part, "Rotate": 135.0 * part}
    values |= {"Posterize": float(8 - round(magnitude / 5)), "Solarize": 255.0 - 255.0 * part}
    return values | {"Identity": 0.0, "AutoContrast": 0.0, "Equalize": 0.0}


@pytest.mark.parametrize("size", [8, 32, 224])
def test_wide_table_is_trivialaugments(size: int) -> None:
    for magnitude in range(31):
        values = {row.name: float(row.values(size)[magnitude]) for row in WIDE_OPERATIONS}
        assert values == pytest.approx(torchvision_wide(magnitude), abs=1e-4)
    assert [row.name for row in WIDE_OPERATIONS] == NAMES
    assert [row.signed for row in WIDE_OPERATIONS] == [row.signed for row in OPERATIONS]


def test_trivial_operations_signs_and_magnitudes_are_uniform_and_independent() -> None:
    draw = TrivialAugment().sample(batch(124_000, 32))
    assert draw.operation.shape == (124_000, 1)
    assert_uniform(torch.bincount(draw.operation[:, 0], minlength=len(NAMES)))
    for row, operation in enumerate(WIDE_OPERATIONS):
        values = draw.value[draw.operation == row]
        table = operation.values(32).double()
        strength, counts = values.abs().unique(return_counts=True)
        assert torch.equal(strength, table.unique())
        multiple = torch.tensor([float((table == value).sum()) for value in strength])
        expected = len(values) * multiple / 31
        assert ((counts - expected).abs() < 5 * expected.sqrt()).all()
        if operation.signed:
            assert_uniform(torch.stack([(values > 0).sum(), (values < 0).sum()]))
        else:
            assert (values >= 0).all()


@pytest.mark.parametrize("name", NAMES[:11])
def test_magnitude_0_changes_nothing(name: str) -> None:
    images = picture_batch(0, 3, 15)
    assert torch.equal(one_operation(name, images, OPERATIONS[NAMES.index(name)].values(15)[0]), images)


def test_posterize_bits_fall_with_magnitude() -> None:
    bits = OPERATIONS[NAMES.index("Posterize")].values(32)
    assert bits.tolist() == [8 - round(magnitude / 7.5) for magnitude in range(31)]
    image = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    assert posterize(image, torch.tensor([0b11110000], dtype=torch.uint8)).unique().tolist() == [0b11110000]


def test_saturation_leaves_grey_images() -> None:
    images = picture_batch(3, 1, 12)
    factor = torch.rand(len(images)) * 2
    assert torch.equal(saturation(images, factor), images)
    assert torch.equal(saturation(images.expand(-1, 3, -1, -1), factor), images.expand(-1, 3, -1, -1))


def test_operations_signs_and_steps_are_uniform_and_independent() -> None:
    count = 28_000
    draw = RandAugment(2, 12).sample(batch(count, 32))
    number = len(NAMES)
    assert_uniform(torch.bincount(draw.operation.flatten(), minlength=number))
    assert_uniform(torch.bincount(draw.operation[:, 0] * number + draw.operation[:, 1], minlength=number**2))
    for row in range(1, 10):
        values = draw.value[draw.operation == row]
        assert_uniform(torch.stack([(values > 0).sum(), (values < 0).sum()]))
        assert len(values.unique()) == 2
    unsigned = draw.value[(draw.operation == 0) | (draw.operation > 9)]
    assert (unsigned >= 0).all()


def test_images_of_a_batch_change_differently_and_the_input_stays() -> None:
    images = picture_batch(0, 3, 32)[:1].repeat(64, 1, 1, 1)
    stage = RandAugment(2, 15)
    result = stage.apply(images, stage.sample(batch(64, 32, 1)))
    assert len({image.numpy().tobytes() for image in result}) > 50
    assert (images == images[0]).all()


def test_equal_functions_run_at_once_wherever_they_stand_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    images, count = picture_batch(0, 3, 12, 200), len(OPERATIONS)
    params = RandAugment(1, 12).sample(batch(len(images), 12))
    expected = RandAugment(1, 12).apply(images, params)
    order = torch.randperm(count, generator=generator(1))
    monkeypatch.setattr(randaugment, "OPERATIONS", tuple(OPERATIONS[row] for row in order))
    moved = OperationParams(order.argsort()[params.operation], params.value)
    assert torch.equal(RandAugment(1, 12).apply(images, moved), expected)
    groups = list(randaugment._groups(moved.operation[:, 0], moved.value[:, 0], 12))
    assert len({function for function, *_ in groups}) == len(groups) == count - 5  # four more maps, and no identity


def test_copy_to_device_returns_each_tensor_as_it_was() -> None:
    tensors = [
        torch.tensor([True, False, True]),
        torch.arange(5)[:, None] * torch.arange(3),
        torch.empty(0, 6, dtype=torch.int32),
        torch.tensor(7, dtype=torch.uint8),
        torch.rand(3, 2).T,
    ]
    for moved, source in zip(copy_to_device(tensors, torch.device("cpu")), tensors, strict=True):
        assert moved.dtype == source.dtype
        assert torch.equal(moved, source)


def test_groups_leave_the_other_images() -> None:
    images = picture_batch(0, 1, 8)
    result = apply_groups(images, [(posterize, torch.tensor([6, 2]), torch.tensor([0, 255], dtype=torch.uint8))])
    assert not result[6].any()
    assert torch.equal(result[:6], images[:6])
    assert torch.equal(apply_groups(images, []), images)
