"""A contract that every preset keeps, and parity with the paper's network written out plainly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convmixer.errors import InputError
from convmixer.models import (
    ConvMixer,
    ConvMixerBN,
    ConvMixerLC,
    ConvMixerRH,
    count_multiply_adds,
    count_parameters,
    create_model,
    list_models,
)
from convmixer.models.blocks import DropPath
from convmixer.presets import MODELS
from tests.helpers.networks import paper_network

SMALL = {"dim": 16, "depth": 2}
VARIANTS = ["convmixer", "convmixer_rh", "convmixer_lc", "convmixer_bn"]


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("size", ["even", "odd"])
def test_every_preset_keeps_the_contract(name: str, size: str) -> None:
    patch = MODELS[name].architecture.patch_size
    side = 4 * patch + (patch // 2 if size == "odd" else 0)
    model = create_model(name, n_classes=7, **SMALL)
    logits = model(torch.randn(3, 3, side, side))
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name

    model.eval()
    image = torch.randn(1, 3, side, side + patch)
    features = model.forward_features(image)
    assert features.shape == (1, 16, 4, 5)
    assert model.forward_head(features, pre_logits=True).shape == (1, 16)
    torch.testing.assert_close(model.forward_head(features), model(image))
    model.reset_classifier(3)
    assert model(image).shape == (1, 3)
    model.reset_classifier(0)
    torch.testing.assert_close(model(image), model.forward_head(features, pre_logits=True))


@pytest.mark.parametrize(
    ("name", "parameters"), [("convmixer_256_8_k5", 594_186), ("convmixer_256_8_k9", 708_874), ("convmixer", 708_874)]
)
def test_parameter_counts_are_the_published_ones(name: str, parameters: int) -> None:
    assert count_parameters(create_model(name)) == parameters


@pytest.mark.parametrize(
    ("name", "millions"),
    [("convmixer_1536_20", 51.63), ("convmixer_768_32", 21.11), ("convmixer_1024_20_ks9_p14", 24.38)],
)
def test_imagenet_presets_have_the_published_size(name: str, millions: float) -> None:
    with torch.device("meta"):
        assert count_parameters(create_model(name)) / 1e6 == pytest.approx(millions, abs=0.005)


def test_multiply_adds_of_a_network_counted_by_hand() -> None:
    config = create_config(dim=8, depth=2, kernel_size=3, patch_size=2)
    stem, depthwise, pointwise, head = 16 * 8 * 3 * 4, 16 * 8 * 9, 16 * 8 * 8, 8 * 5
    assert count_multiply_adds(config, image_size=8, n_classes=5) == stem + 2 * (depthwise + pointwise) + head


def create_config(**fields: int):
    from dataclasses import replace

    return replace(MODELS["convmixer"].architecture, **fields)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_parity_with_the_paper(dtype: torch.dtype, tolerance: float, activation: str) -> None:
    plain = paper_network(24, 3, 5, 2, 10, {"gelu": nn.GELU, "relu": nn.ReLU}[activation]).to(dtype)
    model = create_model("convmixer", dim=24, depth=3, kernel_size=5, activation=activation).to(dtype)
    model.load_state_dict(dict(zip(model.state_dict(), plain.state_dict().values(), strict=True)))
    images = torch.randn(8, 3, 16, 16, dtype=dtype)
    labels = torch.randint(0, 10, (8,))
    outputs = [network(images) for network in (plain, model)]
    for output in outputs:
        nn.functional.cross_entropy(output, labels).backward()
    assert (outputs[0] - outputs[1]).abs().max() <= tolerance
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).abs().max() <= tolerance, name
    for (name, mine), their in zip(model.named_buffers(), plain.buffers(), strict=True):
        assert (mine - their).abs().max() <= tolerance, name


def test_variants_differ_by_head_or_branch_alone() -> None:
    keys = {name: set(create_model(name, **SMALL).state_dict()) for name in VARIANTS}
    base = keys["convmixer"]
    for name in ("convmixer_rh", "convmixer_lc"):
        assert {key for key in keys[name] ^ base if not key.startswith("head.")} == set()
    different = keys["convmixer_bn"] ^ base
    assert different
    assert all(".0.fn." in key for key in different)


def test_variants_are_built_as_described() -> None:
    def kinds(module: nn.Module) -> list[str]:
        return [type(part).__name__ for part in module.children()]

    assert kinds(ConvMixerRH(16, 1).head) == ["LayerNorm", "Linear", "GELU", "Linear", "LayerNorm", "Linear"]
    assert [p.shape for p in ConvMixerRH(16, 1).head[1].parameters()] == [(256, 16), (256,)]
    assert kinds(ConvMixerLC(16, 1).head) == ["BatchNorm1d", "Dropout", "Linear"]
    branch = ConvMixerBN(16, 1, bottleneck_factor=4).blocks[0][0].fn
    assert kinds(branch) == ["Conv2d", "GELU", "BatchNorm2d"] * 3
    assert [conv.weight.shape for conv in branch[::3]] == [(4, 16, 1, 1), (4, 1, 5, 5), (16, 4, 1, 1)]


@pytest.mark.parametrize("variant", ["convmixer", "convmixer_rh", "convmixer_lc", "convmixer_bn"])
def test_branches_of_no_weight_leave_the_pointwise_halves(variant: str) -> None:
    model = create_model(variant, dim=8, depth=2, kernel_size=3).init_residual_gamma(0.0)
    x = torch.randn(3, 3, 16, 16)
    expected = model.stem(x)
    for block in model.blocks:
        expected = block[1:](expected)
    torch.testing.assert_close(model.forward_features(x), expected)
    weights = {norm.weight.unique().item() for norm in model.modules() if isinstance(norm, torch.nn.BatchNorm2d)}
    assert weights == {0.0, 1.0}
    changed = sum((norm.weight == 0).all().item() for norm in model.modules() if isinstance(norm, torch.nn.BatchNorm2d))
    assert changed == 2  # one to a branch


def test_the_documents_call() -> None:
    model = ConvMixer(dim=256, depth=8, kernel_size=9, patch_size=2, n_classes=10)
    assert count_parameters(model) == 708_874


def test_grey_images_and_other_classes() -> None:
    model = create_model("convmixer", in_channels=1, n_classes=3, **SMALL)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_dropout_acts_in_training_only() -> None:
    model = create_model("convmixer", dropout=0.5, **SMALL)
    features = torch.randn(4, 16, 4, 4)
    assert (model.forward_head(features, pre_logits=True) == 0).any()
    model.eval()
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.mean((2, 3)))


def test_drop_path_rises_with_depth_and_keeps_the_mean() -> None:
    model = create_model("convmixer", dim=8, depth=5, drop_path=0.2)
    rates = [module.probability for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    dropped = DropPath(0.25)(torch.ones(20_000, 1, 1, 1))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(DropPath(0.25).eval()(torch.ones(4)), torch.ones(4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "convmixr"}, "did you mean 'convmixer'"),
        ({"name": "convmixer", "dims": 3}, "did you mean 'dim'"),
        ({"name": "convmixer", "kernel_size": 4}, "choose 3 or 5"),
        ({"name": "convmixer_bn", "dim": 15}, "choose one of 1, 3, 5, 15"),
        ({"name": "convmixer", "activation": "gleu"}, "did you mean 'gelu'"),
        ({"name": "convmixer", "dropout": 1.0}, "dropout"),
        ({"name": "convmixer", "n_classes": -1}, "at least 0"),
        ({"name": "convmixer", "in_channels": 0}, "at least 1"),
    ],
)
def test_impossible_arguments_are_refused_by_name(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model(**arguments)


def test_an_unknown_keyword_of_a_variant_is_not_swallowed() -> None:
    with pytest.raises(TypeError, match="droput"):
        ConvMixerRH(8, 1, droput=0.1)


@pytest.mark.parametrize(("arguments", "message"), [({"kernel_size": 4}, "odd"), ({"activation": "tanh"}, "tanh")])
def test_the_class_itself_checks_its_arguments(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ConvMixer(8, 1, **arguments)
