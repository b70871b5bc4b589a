"""Splits, statistics and fingerprint: what all data sets share."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convmixer.config import DataConfig
from convmixer.data.collection import (
    Collection,
    DatasetInfo,
    Part,
    channel_statistics,
    channel_sums,
    fingerprint,
    stratified_split,
)
from convmixer.data.datasets import Dataset, load_dataset
from convmixer.datasets import DATASETS
from convmixer.errors import InputError
from convmixer.records import build


def make_part(n: int, *, classes: int = 2, channels: int = 3, size: int = 4, seed: int = 0) -> Part:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (n, channels, size, size), dtype=np.uint8)
    return Part(images, np.arange(n) % classes)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch):
    """Makes a collection stand for digits."""

    def use(collection: Collection) -> None:
        module = type(sys)("tests.source")
        module.load = lambda config, console: collection  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tests.source", module)
        monkeypatch.setitem(DATASETS, "digits", "tests.source:load")

    return use


class TestStratifiedSplit:
    @settings(max_examples=60, deadline=None)
    @given(
        counts=st.lists(st.integers(2, 40), min_size=1, max_size=6),
        fraction=st.floats(0.01, 0.99),
        seed=st.integers(0, 2**70),
        order=st.randoms(use_true_random=False),
    )
    def test_every_class_is_divided_in_the_same_way(self, counts, fraction, seed, order):
        listed = [label for label, count in enumerate(counts) for _ in range(count)]
        order.shuffle(listed)
        labels = np.array(listed)
        torch.manual_seed(order.randrange(1000))
        rest, held = stratified_split(labels, fraction, seed)
        assert sorted([*rest.tolist(), *held.tolist()]) == list(range(len(labels)))
        assert rest.tolist() == sorted(rest.tolist())
        assert held.tolist() == sorted(held.tolist())
        for label, count in enumerate(counts):
            share = int((labels[held] == label).sum())
            assert 1 <= share < count
            assert abs(share - count * fraction) <= 0.5 + 1e-9 or share in (1, count - 1)
        again = stratified_split(labels, fraction, seed)
        assert np.array_equal(again[0], rest)
        assert np.array_equal(again[1], held)

    def test_the_choice_is_the_same_everywhere_and_for_ever(self):
        _, held = stratified_split(np.arange(40) % 2, 0.25, seed=7)
        assert held.tolist() == [9, 11, 14, 18, 21, 28, 31, 32, 34, 37]

    def test_seeds_differ(self):
        labels = np.zeros(1000, dtype=np.int64)
        chosen = {tuple(stratified_split(labels, 0.1, seed)[1].tolist()) for seed in range(5)}
        assert len(chosen) == 5

    def test_leaves_global_random_states_alone(self):
        np.random.seed(3)
        before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
        stratified_split(np.arange(40) % 2, 0.25, seed=7)
        assert torch.equal(torch.get_rng_state(), before)
        assert (np.random.get_state()[1] == legacy).all()

    def test_refuses_a_class_of_one(self):
        with pytest.raises(InputError, match="class 'dog' has only one image"):
            stratified_split(np.array([0, 0, 0, 1]), 0.5, 0, ["cat", "dog"])
        with pytest.raises(InputError, match="class 1 has"):
            stratified_split(np.array([0, 0, 0, 1]), 0.5, 0)

    def test_refuses_impossible_arguments(self):
        with pytest.raises(InputError, match="--split-seed: -1 is negative"):
            stratified_split(np.array([0, 0]), 0.5, -1)
        for fraction in (0.0, 1.0, float("nan")):
            with pytest.raises(ValueError, match="fraction"):
                stratified_split(np.array([0, 0]), fraction, 0)


class TestStatistics:
    def test_are_exact(self):
        images = make_part(500, size=13).images
        mean, std = channel_statistics(images)
        values = images.astype(np.float64) / 255
        np.testing.assert_allclose(mean, values.mean(axis=(0, 2, 3)), rtol=1e-13)
        np.testing.assert_allclose(std, values.std(axis=(0, 2, 3)), rtol=1e-13)

    def test_sums(self):
        images = make_part(3).images
        sums, squares = channel_sums(images)
        wide = images.astype(np.int64)
        assert list(sums) == wide.sum((0, 2, 3)).tolist()
        assert list(squares) == (wide**2).sum((0, 2, 3)).tolist()

    def test_constant_channel_has_a_harmless_deviation(self):
        mean, std = channel_statistics(np.full((5, 1, 2, 2), 51, dtype=np.uint8))
        assert mean == (0.2,)
        assert std == (1.0,)


class TestFingerprint:
    def test_depends_on_everything_and_on_nothing_else(self):
        split, classes = make_part(6), ("a", "b")
        parts = {"train": split, "test": make_part(4, seed=1)}
        base = fingerprint(classes, parts)
        spread = Part(np.ascontiguousarray(split.images.swapaxes(2, 3)).swapaxes(2, 3), split.labels.copy())
        assert fingerprint(classes, {"test": parts["test"], "train": spread}) == base

        pixel = split.images.copy()
        pixel[0, 0, 0, 0] += 1
        label = split.labels.copy()
        label[0] = 1
        changed = [
            fingerprint(("a", "c"), parts),
            fingerprint(classes, {**parts, "train": Part(pixel, split.labels)}),
            fingerprint(classes, {**parts, "train": Part(split.images, label)}),
            fingerprint(classes, {**parts, "train": split.take(np.array([1, 0, 2, 3, 4, 5]))}),
            fingerprint(classes, {**parts, "train": Part(split.images.reshape(6, 3, 2, 8), split.labels)}),
            fingerprint(classes, {"train": parts["test"], "test": split}),
            fingerprint(classes, {"train": split}),
        ]
        assert len({base, *changed}) == len(changed) + 1


class TestLoadDataset:
    def test_validation_comes_out_of_training(self, source):
        whole = make_part(100)
        source(Collection("x", ("a", "b"), {"train": whole, "test": make_part(20, seed=1)}, mirror=True))
        loaded = load_dataset(DataConfig(dataset="digits"))
        assert loaded.info.sizes == {"train": 90, "val": 10, "test": 20}
        assert loaded.splits["val"].labels.bincount().tolist() == [5, 5]
        assert (loaded.info.mean, loaded.info.std) == channel_statistics(whole.images)
        everything = torch.cat([loaded.splits[part].images for part in ("train", "val")])
        assert sorted(everything.flatten(1).sum(1).tolist()) == sorted(whole.images.sum((1, 2, 3)).tolist())

    @pytest.mark.parametrize("own", [False, True])
    def test_without_validation(self, source, own):
        parts = {"train": make_part(100), "test": make_part(20, seed=1)} | ({"val": make_part(8)} if own else {})
        source(Collection("x", ("a", "b"), parts, mirror=True))
        for loaded in (
            load_dataset(DataConfig(dataset="digits"), protocol="original"),
            load_dataset(DataConfig(dataset="digits", val_fraction=0.0)),
        ):
            assert loaded.info.sizes == {"train": 100, "test": 20}
            assert set(loaded.splits) == {"train", "test"}

    def test_own_validation_part_is_used_as_it_is(self, source):
        parts = {"train": make_part(100), "test": make_part(20, seed=1), "val": make_part(8, seed=2)}
        source(Collection("x", ("a", "b"), parts, mirror=True))
        loaded = load_dataset(DataConfig(dataset="digits", val_fraction=0.5))
        assert loaded.info.sizes == {"train": 100, "val": 8, "test": 20}

    def test_test_part_is_set_aside_where_there_is_none(self, source):
        source(Collection("x", ("a", "b"), {"train": make_part(100)}, mirror=True))
        first = load_dataset(DataConfig(dataset="digits", test_fraction=0.3))
        assert first.info.sizes == {"train": 62, "val": 8, "test": 30}
        more = load_dataset(DataConfig(dataset="digits", test_fraction=0.3, val_fraction=0.5))
        assert more.info.fingerprint == first.info.fingerprint
        assert torch.equal(more.splits["test"].images, first.splits["test"].images)
        other = load_dataset(DataConfig(dataset="digits", test_fraction=0.3, split_seed=1))
        assert other.info.fingerprint != first.info.fingerprint

    def test_class_too_small_to_hold_any_out_is_named(self, source):
        whole = Part(make_part(3).images, np.array([0, 0, 1]))
        source(Collection("x", ("cat", "dog"), {"train": whole, "test": make_part(4)}, mirror=True))
        with pytest.raises(InputError, match="class 'dog' has only one image"):
            load_dataset(DataConfig(dataset="digits"))
        assert load_dataset(DataConfig(dataset="digits", val_fraction=0.0)).info.sizes["train"] == 3

    @pytest.mark.parametrize(
        ("test", "options", "message"),
        [
            (False, {}, "class 'dog' has only 2 images, and the parts train, val, test need 3"),
            (False, {"val_fraction": 0.0}, None),
            (True, {}, None),
        ],
    )
    def test_class_too_small_for_all_parts_is_named_with_what_it_needs(self, source, test, options, message):
        parts = {"train": make_part(9)} | ({"test": make_part(4)} if test else {})
        parts["train"].labels[:] = [0, 0, 0, 0, 0, 0, 0, 1, 1]
        source(Collection("x", ("cat", "dog"), parts, mirror=True))
        if message is None:
            labels = load_dataset(DataConfig(dataset="digits", **options)).splits["train"].labels
            assert (labels == 1).sum() == 1
            return
        with pytest.raises(InputError, match=message) as caught:
            load_dataset(DataConfig(dataset="digits", **options))
        assert "--val-fraction 0" in str(caught.value)

    def test_class_without_a_training_image_is_named(self, source):
        source(Collection("x", ("a", "b", "c"), {p: make_part(4, classes=2) for p in ("train", "val", "test")}, True))
        with pytest.raises(InputError, match="class 'c' has no training image"):
            load_dataset(DataConfig(dataset="digits"))

    def test_file_names_follow_their_images(self, source):
        images = make_part(40)
        names = tuple(f"{i}.png" for i in range(40))
        source(Collection("x", ("a", "b"), {"train": Part(images.images, images.labels, names)}, mirror=True))
        splits = load_dataset(DataConfig(dataset="digits")).splits
        assert sorted(name for split in splits.values() for name in split.names) == sorted(names)
        for split in splits.values():
            for image, name in zip(split.images, split.names, strict=True):
                assert np.array_equal(image.numpy(), images.images[int(name.partition(".")[0])])

    def test_only_folders_are_resized(self, source):
        source(Collection("x", ("a", "b"), {"train": make_part(100)}, mirror=True))
        assert load_dataset(DataConfig(dataset="digits", image_size=4)).info.image_size == 4
        with pytest.raises(InputError, match="--image-size: the images of digits are 4×4"):
            load_dataset(DataConfig(dataset="digits", image_size=8))


def test_info_survives_json():
    info = load_dataset(DataConfig(dataset="digits")).info
    assert build(DatasetInfo, info.to_dict(), "dataset.json") == info


def test_package_import_is_cheap_and_complete():
    code = (
        "import sys, convmixer.data as d; heavy = {'torch', 'sklearn', 'PIL', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy; import convmixer.data.images; assert 'torch' not in sys.modules; "
        "assert {'Dataset', 'DatasetInfo', 'Split', 'load_dataset'} < set(d.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import convmixer.data

    assert convmixer.data.load_dataset is load_dataset
    assert convmixer.data.Dataset is Dataset
    with pytest.raises(AttributeError, match="nothing"):
        _ = convmixer.data.nothing
