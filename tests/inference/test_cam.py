"""Class activation maps: their mean plus the bias is the logit; Grad-CAM is what differentiating says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from convmixer.inference.cam import affine_head, class_activation_map
from convmixer.models import create_model


def network(name: str, **options: Any) -> Any:
    """A small network whose normalisations have statistics and weights of their own."""
    torch.manual_seed(1)
    model = create_model(name, dim=8, depth=2, kernel_size=3, n_classes=5, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def known(head: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    found = affine_head(head)
    assert found is not None
    return found


IMAGES = torch.randn(4, 3, 12, 16, generator=torch.Generator().manual_seed(2))
CLASSES = torch.tensor([0, 4, 2, 2])


@pytest.mark.parametrize("engine", ["plain", "fast"])
@pytest.mark.parametrize("name", ["convmixer", "convmixer_lc", "convmixer_bn"])
def test_the_mean_of_an_exact_map_plus_the_bias_is_the_logit(name: str, engine: str) -> None:
    model = network(name, engine=engine)
    maps = class_activation_map(model, IMAGES, CLASSES)
    assert maps.shape == (4, 6, 8)
    assert maps.dtype == torch.float32
    assert maps.std((1, 2)).min() > 0.01  # they say where
    _, bias = known(model.head)
    with torch.no_grad():
        logits = model(IMAGES).gather(1, CLASSES[:, None])[:, 0].double()
    torch.testing.assert_close(maps.double().mean((1, 2)) + bias[CLASSES], logits, rtol=1e-5, atol=1e-5)


def test_a_folded_head_is_the_head() -> None:
    head: Any = network("convmixer_lc").head
    weight, bias = known(head)
    norm, linear = head[0], head[-1]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(weight, (linear.weight * scale).double(), rtol=1e-5, atol=1e-6)
    features = torch.randn(6, 8)
    torch.testing.assert_close((features.double() @ weight.t() + bias).float(), head(features), rtol=1e-5, atol=1e-5)
    assert affine_head(network("convmixer_rh").head) is None
    assert affine_head(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 5))) is None


def gradient_map(model: nn.Module, image: torch.Tensor, label: int) -> torch.Tensor:
    """Grad-CAM as the paper writes it, for one image, through the whole network."""
    kept = []

    def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = model.get_submodule("blocks").register_forward_hook(keep)
    model(image[None])[0, label].backward()
    handle.remove()
    (maps,) = kept
    alpha = maps.grad[0].mean((1, 2))
    weighted = [a * m for a, m in zip(alpha, maps[0].detach(), strict=True)]
    return torch.stack(weighted).sum(0).clamp(min=0)


@pytest.mark.parametrize(("name", "maximum"), [("convmixer_rh", False), ("convmixer_rh", True), ("convmixer", True)])
def test_other_heads_and_poolings_get_grad_cam(name: str, maximum: bool) -> None:
    model, classes = network(name, engine="plain"), torch.arange(5)
    if maximum:
        model.pooling = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
    maps = class_activation_map(model, IMAGES[:1].expand(5, -1, -1, -1), classes)
    expected = torch.stack([gradient_map(model, IMAGES[0], label) for label in range(5)])
    assert expected.max() > 0
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["convmixer", "convmixer_rh"])
def test_the_predicted_class_is_explained_unless_another_is_asked_for(name: str) -> None:
    model = network(name).train()
    maps = class_activation_map(model, IMAGES)
    assert not model.training
    with torch.no_grad():
        predicted = model(IMAGES).argmax(1)
    assert torch.equal(maps, class_activation_map(model, IMAGES, predicted))
    assert not torch.equal(maps, class_activation_map(model, IMAGES, (predicted + 1) % 5))


def test_it_works_within_inference_mode_and_on_a_fused_model() -> None:
    for name in ("convmixer", "convmixer_rh"):
        model = network(name, engine="fast")
        expected = class_activation_map(model, IMAGES, CLASSES)
        model.fuse()
        with torch.inference_mode():
            torch.testing.assert_close(class_activation_map(model, IMAGES, CLASSES), expected, rtol=1e-4, atol=1e-5)


def test_evidence_lies_where_the_object_is() -> None:
    """A network that answers to brightness in its first channel finds the bright patch."""
    model = network("convmixer", engine="plain")
    model.blocks = nn.Sequential()
    with torch.no_grad():
        model.stem[0].weight.fill_(1.0)
        model.stem[2].reset_parameters()
        model.stem[2].reset_running_stats()
        model.head.weight.fill_(1.0)
    image = torch.zeros(1, 3, 12, 12)
    image[0, :, 4:6, 8:10] = 1.0
    (found,) = class_activation_map(model, image)
    assert divmod(int(found.argmax()), 6) == (2, 4)
