"""The digits that come with scikit-learn."""

from __future__ import annotations

import torch

from convmixer.config import DataConfig
from convmixer.data import load_dataset


def test_digits():
    loaded = load_dataset(DataConfig(dataset="digits"))
    info = loaded.info
    assert (info.name, info.channels, info.image_size, info.mirror) == ("digits", 1, 8, False)
    assert info.classes == tuple("0123456789")
    assert info.sizes == {"train": 1293, "val": 145, "test": 359}
    for split in loaded.splits.values():
        assert split.images.shape == (len(split), 1, 8, 8)
        assert split.images.dtype == torch.uint8
        assert split.images.is_contiguous()
        assert split.labels.dtype == torch.int64
        assert split.labels.unique().tolist() == list(range(10))
    levels = torch.cat([split.images for split in loaded.splits.values()]).unique().tolist()
    assert levels == [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    assert 0.30 < info.mean[0] < 0.31
    assert 0.37 < info.std[0] < 0.38


def test_the_test_part_is_fixed():
    first, second = load_dataset(DataConfig(dataset="digits")), load_dataset(DataConfig(dataset="digits"))
    assert first.info == second.info
    assert first.info.fingerprint == "b6aeb284ca7a89521e0442884518e5bde6e257943ab7688055246d2bbc36ec2f"
    assert torch.equal(first.splits["test"].images, second.splits["test"].images)
