"""What is said of a data set before training: counts, imbalance, missing classes, copies, original files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from convmixer.config import AugmentConfig, DataConfig
from convmixer.data import Dataset, DatasetInfo, Split, load_dataset
from convmixer.data.augment import Augment
from convmixer.data.batches import Normalize, TrainBatches
from convmixer.data.duplicates import exact_duplicates, near_duplicates
from convmixer.data.inspection import inspect
from convmixer.data.originals import describe_originals
from convmixer.data.samples import augmented, class_samples
from convmixer.presets import RECIPES


def random_images(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Images (N, 3, S, S) with structure at all scales, as photographs have: none looks like another."""
    random = np.random.default_rng(seed)
    images = np.zeros((count, 3, size, size))
    for blocks in (2, 4, 8, 16):
        coarse = random.normal(0, 160 / blocks, (count, 3, blocks, blocks))
        images += coarse.repeat(size // blocks, axis=2).repeat(size // blocks, axis=3)
    return torch.from_numpy((images + 128).clip(0, 255).astype(np.uint8))


def made(classes: tuple[str, ...] = ("a", "b"), **parts: tuple[torch.Tensor, list[int]]) -> Dataset:
    splits = {name: Split(images, torch.tensor(labels)) for name, (images, labels) in parts.items()}
    images = splits["train"].images
    mean, std = (0.5,) * images.shape[1], (0.25,) * images.shape[1]
    sizes = {name: len(split) for name, split in splits.items()}
    info = DatasetInfo("made", classes, images.shape[1], images.shape[-1], mean, std, True, "", sizes)
    return Dataset(info, splits)


def jpeg(image: torch.Tensor, quality: int) -> torch.Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer)).transpose(2, 0, 1).copy())


def test_copies_are_counted_within_and_across_splits() -> None:
    base = random_images(8)
    train = base[[0, 1, 2, 3, 0, 0]]
    found = exact_duplicates(
        made(train=(train, [0, 1, 0, 1, 0, 1]), val=(base[[4, 1]], [0, 1]), test=(base[5:], [1, 1, 0]))
    )
    assert found.groups == 2
    assert found.images == 5
    assert found.within == {"train": 2, "val": 0, "test": 0}
    assert found.across == {"val in train": 1, "test in train": 0, "test in val": 0}
    assert found.conflicting == 3  # the three times that image 0 is there
    spread, alone = found.examples
    assert [(m.split, m.index, m.label) for m in spread] == [("train", 1, "b"), ("val", 1, "b")]
    assert [(m.split, m.index) for m in alone] == [("train", 0), ("train", 4), ("train", 5)]


def test_a_single_pixel_makes_another_image() -> None:
    images = random_images(2)
    images[1] = images[0]
    images[1, 0, 0, 0] ^= 1
    dataset = made(train=(images[:1], [0]), test=(images[1:], [0]))
    assert exact_duplicates(dataset).groups == 0
    near = near_duplicates(dataset)
    assert near is not None
    assert near.across["test in train"] == 1


def test_saved_again_as_jpeg_an_image_is_still_found_and_no_other() -> None:
    train = random_images(300)
    test = torch.stack([jpeg(image, 75) for image in train[:60]])
    near = near_duplicates(made(train=(train, [0] * 300), test=(test, [1] * 60)))
    assert near is not None
    assert near.across["test in train"] >= 57
    assert near.within["train"] == 0
    assert near.conflicting == near.images
    assert all(member.index == group[0].index for group in near.examples for member in group)
    other = near_duplicates(made(train=(train, [0] * 300), test=(random_images(60, seed=1), [0] * 60)))
    assert other is not None
    assert other.groups == 0


def test_exact_copies_are_no_near_duplicates() -> None:
    images = random_images(3)
    near = near_duplicates(made(train=(images, [0, 0, 1]), test=(images, [0, 0, 1])))
    assert near is not None
    assert near.groups == 0


def test_tiny_images_are_not_compared_by_their_looks(digits: Dataset) -> None:
    assert near_duplicates(digits) is None


def test_copies_of_a_similar_image_are_in_its_group() -> None:
    images = random_images(2)
    similar = jpeg(images[0], 60)
    near = near_duplicates(made(train=(images, [0, 1]), test=(torch.stack((similar, similar, images[1])), [0, 0, 1])))
    assert near is not None
    assert (near.groups, near.images, near.across["test in train"]) == (1, 3, 2)


def test_thousands_of_images_alike_take_no_quadratic_time() -> None:
    flat = torch.randint(100, 104, (8000, 3, 16, 16), dtype=torch.uint8)  # dHash sees noise, and often the same
    flat[:4000, :, :, 8:] = 0
    near = near_duplicates(made(train=(flat, [0] * 8000), test=(flat[:1], [0])))
    assert near is not None
    assert 0 < near.images <= 8001


def test_imbalance_and_what_a_constant_answer_scores() -> None:
    images = random_images(40)
    dataset = made(("common", "rare"), train=(images[:31], [0] * 30 + [1]), test=(images[31:], [0] * 8 + [1]))
    found = inspect(dataset)
    assert found.counts == {"train": (30, 1), "test": (8, 1)}
    assert (found.imbalance.largest, found.imbalance.smallest, found.imbalance.ratio) == ("common", "rare", 30)
    assert found.imbalance.majority_baseline == pytest.approx(8 / 9)
    (warning,) = found.warnings
    assert "'common' has 30 times as many training images as 'rare'" in warning
    assert "88.9%" in warning


def test_classes_that_a_split_lacks_are_named() -> None:
    images = random_images(30)
    names = tuple(f"class {i}" for i in range(10))
    found = inspect(made(names, train=(images[:20], list(range(10)) * 2), test=(images[20:], [0, 1] * 5)))
    assert found.missing == {"test": names[2:]}
    (warning,) = found.warnings
    assert "The test part has no images of 8 of 10 classes" in warning
    assert "'class 6' and 3 more" in warning


def save(image: torch.Tensor, path: Path, size: tuple[int, int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    (picture.resize(size) if size else picture).save(path)


def test_loading_says_what_endangers_the_results(tmp_path: Path) -> None:
    images = random_images(12)
    for i, image in enumerate(images[:8]):
        save(image, tmp_path / "train" / "cat" / f"{i}.png")
    for i, image in enumerate(images[8:]):
        save(image, tmp_path / "train" / "dog" / f"{i}.png")
    for i in range(2):
        save(images[i], tmp_path / "test" / "cat" / f"{i}.png")
    said = io.StringIO()
    dataset = load_dataset(
        DataConfig(dataset=f"folder:{tmp_path}", val_fraction=0), console=Console(file=said, width=500)
    )
    lacking, copied = said.getvalue().splitlines()
    assert "The test part has no images of 1 of 2 classes ('dog')" in lacking
    assert "2 of 2 test images are also in the train part" in copied
    pairs = exact_duplicates(dataset).examples
    assert sorted((a.name, b.name) for a, b in pairs) == [(f"train/cat/{i}.png", f"test/cat/{i}.png") for i in range(2)]


def test_nothing_is_said_of_sound_data(digits: Dataset) -> None:
    assert inspect(digits).warnings == ()


def test_original_files_are_described(tmp_path: Path) -> None:
    image = random_images(1)[0]
    sizes = [(40, 20), (40, 20), (30, 60), (16, 16)]
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, size in zip(paths, sizes, strict=True):
        save(image, path, size)
    turned = Image.new("L", (50, 10))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = describe_originals([*paths, tmp_path / "turned.jpg", tmp_path / "broken.png"], 20)
    assert found is not None
    assert (found.files, found.examined, found.unreadable) == (6, 6, 1)
    assert found.formats == {"PNG": 4, "JPEG": 1}
    assert found.modes == {"RGB": 4, "L": 1}
    assert (found.width.smallest, found.width.median, found.width.largest) == (10, 30, 40)
    assert (found.height.smallest, found.height.median, found.height.largest) == (16, 20, 60)
    assert (found.aspect.smallest, found.aspect.largest) == (0.2, 2.0)
    assert (found.common_sizes["40×20"], found.distinct_sizes) == (2, 4)
    assert found.enlarged == 2  # 16×16, and 10×50
    assert found.cut.largest == pytest.approx(0.8)
    assert describe_originals([tmp_path / "broken.png"], 20) is None


def test_samples_come_from_every_class() -> None:
    split = Split(random_images(10), torch.tensor([2, 0, 0, 0, 0, 0, 0, 2, 2, 2]))
    assert class_samples(split, 3, 3) == [[1, 3, 5], [], [0, 7, 8]]
    assert class_samples(split, 3, 100) == [[1, 2, 3, 4, 5, 6], [], [0, 7, 8, 9]]


def test_without_augmentation_samples_are_what_they_were(digits: Dataset) -> None:
    index = torch.tensor([5, 3, 700, 8])
    config = AugmentConfig(flip=False)
    assert torch.equal(augmented(digits, index, config), digits.splits["train"].images[index])


@pytest.mark.parametrize("recipe", ["baseline", "strong", "reference"])
def test_augmented_samples_are_those_of_training(recipe: str) -> None:
    """The batch that training would make of these images alone, image by image."""
    train, config = Split(random_images(12), torch.arange(12)), RECIPES[recipe].augment
    dataset = made(tuple("abcdefghijkl"), train=(train.images, list(range(12))))
    info = dataset.info
    normalize = Normalize(info, torch.device("cpu"))
    augment = Augment(config, mean=info.mean, mirror=True)
    ((images, labels),) = TrainBatches(train, 12, 3, augment, normalize, torch.device("cpu")).epoch(0)
    shown = augmented(dataset, torch.arange(12), config, seed=3)
    assert not torch.equal(shown, train.images)
    again = normalize(shown[labels])
    torch.testing.assert_close(again, images, rtol=0, atol=1e-4)


def test_mixed_samples_show_two_images() -> None:
    plain = torch.stack([torch.full((3, 16, 16), 20 * i, dtype=torch.uint8) for i in range(10)])
    dataset = made(tuple("abcdefghij"), train=(plain, list(range(10))))
    shown = augmented(dataset, torch.arange(10), AugmentConfig(flip=False, cutmix=1.0), seed=1)
    levels = [set(image.flatten().tolist()) for image in shown]
    assert max(map(len, levels)) == 2
    assert all(20 * i in found for i, found in enumerate(levels))
