"""mixup and CutMix against their definitions, written out image by image, and their draws against the papers' rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, kstest
from torch import Tensor

from convmixer.config import AugmentConfig
from convmixer.data.mixing import Mixing, MixParams
from convmixer.data.transform import Batch, concatenate
from tests.helpers.images import assert_uniform, batch, generator

CLASSES = 5


def normalised(count: int, channels: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = generator(seed)
    images = torch.randn(count, channels, size, size, generator=source)
    return images, torch.randint(CLASSES, (count,), generator=source)


def many(mixing: Mixing, draws: int, size: int = 32) -> MixParams:
    """The first image's parameters of each of ``draws`` batches of two."""
    source = generator(0)
    whole = concatenate([mixing.sample(Batch(torch.ones(2).bool(), 0, size, source)) for _ in range(draws)])
    return MixParams(whole.partner[::2], whole.box[::2], whole.kept[::2], whole.weight[::2])


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.sampled_from([1, 3]),
    st.integers(3, 33),
    st.sampled_from([(0.8, 0.0), (0.0, 1.0), (0.3, 0.5)]),
    st.sampled_from([1.0, 0.5]),
)
def test_images_and_targets_are_mixed_by_definition(
    seed: int, count: int, channels: int, size: int, parameters: tuple[float, float], probability: float
) -> None:
    images, labels = normalised(count, channels, size, seed)
    kept_images = images.clone()
    mixing = Mixing(*parameters, probability, CLASSES)
    draw = mixing.sample(batch(count, size, seed))
    mixed, targets = mixing.mix(images, labels, draw)
    assert torch.equal(images, kept_images)
    partners = draw.partner + torch.arange(count)
    assert sorted(partners.tolist()) == list(range(count))
    for which in range(count):
        partner = int(partners[which])
        top, left, bottom, right = draw.box[which].tolist()
        kept = float(draw.kept[which])
        expected = images[which].clone()
        inside = expected[:, top:bottom, left:right]
        inside *= kept
        inside += (1 - kept) * images[partner][:, top:bottom, left:right]
        torch.testing.assert_close(mixed[which], expected, rtol=1e-5, atol=1e-6)
        share = 1 - (1 - kept) * (bottom - top) * (right - left) / size**2
        target = np.zeros(CLASSES)
        target[labels[which]] += share
        target[labels[partner]] += 1 - share
        np.testing.assert_allclose(targets[which].numpy(), target, atol=1e-6)
    torch.testing.assert_close(targets.sum(1), torch.ones(count))


def test_cutmix_copies_pixels_and_weighs_by_their_number() -> None:
    images, labels = normalised(64, 3, 20)
    mixing = Mixing(0.0, 1.0, 1.0, CLASSES)
    draw = mixing.sample(batch(64, 20, 3))
    mixed, targets = mixing.mix(images, labels, draw)
    partner = images[draw.partner + torch.arange(64)]
    own, other = (mixed == images).all(1), (mixed == partner).all(1)
    assert (own | other).all()
    counted = own.double().mean((1, 2))
    strangers = (labels != labels[draw.partner + torch.arange(64)]) & (draw.partner != 0)
    assert strangers.sum() > 20
    weights = targets.gather(1, labels[:, None]).squeeze(1).double()
    assert torch.allclose(weights[strangers], counted[strangers], atol=1e-6)
    assert 0 < float(counted[strangers][0]) < 1


def test_a_batch_that_is_not_mixed_keeps_every_bit() -> None:
    images, labels = normalised(6, 3, 9)
    mixing = Mixing(0.5, 0.5, 0.0, CLASSES)
    mixed, targets = mixing.mix(images, labels, mixing.sample(batch(6, 9)))
    assert torch.equal(mixed, images)
    assert torch.equal(targets, torch.eye(CLASSES)[labels])


@pytest.mark.parametrize("parameter", [0.2, 1.0, 3.0])
def test_mixups_share_is_beta_distributed_and_one_for_the_batch(parameter: float) -> None:
    mixing = Mixing(parameter, 0.0, 1.0, CLASSES)
    draw = many(mixing, 3000)
    assert kstest(draw.kept.double().numpy(), beta(parameter, parameter).cdf).pvalue > 1e-3
    torch.testing.assert_close(draw.weight, draw.kept)
    assert (draw.box == torch.tensor([0, 0, 32, 32])).all()
    one = mixing.sample(batch(50, 32))
    assert len(one.kept.unique()) == len(one.weight.unique()) == 1


def test_cutmix_rectangles_have_the_papers_area_and_place() -> None:
    size = 200
    draw = many(Mixing(0.0, 1.0, 1.0, CLASSES), 4000, size)
    top, left, bottom, right = draw.box.double().T
    inside = (top > 0) & (left > 0) & (bottom < size) & (right < size)
    # With parameter 1 the fraction of the area is uniform; for squares inside the image the cut does not change it.
    narrow = inside & ((bottom - top) < size / 2)
    for start, end in ((top, bottom), (left, right)):
        centre = ((start + end) / 2)[narrow & ((end - start) < size / 10)]
        assert kstest(centre.numpy(), "uniform", args=(size / 20, size * 0.9)).pvalue > 1e-4
    assert ((bottom - top)[inside] == (right - left)[inside]).all()
    assert float(((bottom - top) * (right - left)).mean()) / size**2 == pytest.approx(_expected_area(), rel=0.05)
    assert torch.allclose(draw.weight.double(), 1 - (bottom - top) * (right - left) / size**2, atol=1e-6)
    assert (draw.kept == 0).all()


def _expected_area() -> float:
    """Of the part inside the unit square of squares of uniform area about a uniform centre, by plain simulation."""
    source = np.random.default_rng(0)
    area, place = source.random(200_000), source.random((2, 200_000))
    half = np.sqrt(area) / 2
    sides = np.minimum(place + half, 1) - np.maximum(place - half, 0)
    return float((sides[0] * sides[1]).mean())


def test_a_coin_decides_between_both_and_a_probability_whether_at_all() -> None:
    draw = many(Mixing(0.5, 0.5, 0.5, CLASSES), 4000)
    unmixed = (draw.box == 0).all(1)
    cut = ~unmixed & (draw.kept == 0)
    assert_uniform(torch.tensor([int(unmixed.sum()), int((~unmixed).sum())]))
    assert_uniform(torch.tensor([int(cut.sum()), int((~unmixed & ~cut).sum())]))
    assert (draw.weight[unmixed] == 1).all()


def test_partners_are_a_random_order() -> None:
    draw = concatenate([Mixing(1.0, 0.0, 1.0, CLASSES).sample(batch(4, 8, seed)) for seed in range(6000)])
    partners = (draw.partner.view(-1, 4) + torch.arange(4)) @ torch.tensor([64, 16, 4, 1])
    assert_uniform(partners.unique(return_counts=True)[1])
    assert len(partners.unique()) == 24


def test_batches_stay_among_themselves() -> None:
    mixing = Mixing(1.0, 0.0, 1.0, CLASSES)
    images, labels = normalised(20, 1, 8)
    draws = [mixing.sample(batch(10, 8, seed)) for seed in (0, 1)]
    together, targets = mixing.mix(images, labels, concatenate(draws))
    for part, draw in enumerate(draws):
        own = slice(10 * part, 10 * part + 10)
        alone, own_targets = mixing.mix(images[own], labels[own], draw)
        assert torch.equal(together[own], alone)
        assert torch.equal(targets[own], own_targets)


def test_without_either_labels_stay_labels() -> None:
    assert Mixing.of(AugmentConfig(mix_probability=0.5), CLASSES) is None
    assert Mixing.of(AugmentConfig(cutmix=0.5), CLASSES) == Mixing(0.0, 0.5, 1.0, CLASSES)
