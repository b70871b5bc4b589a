"""Class activation maps: where in an image the evidence for a class lies."""

from __future__ import annotations

import copy

import torch
from torch import nn

from convmixer.models import ConvMixer

_AFFINE = (nn.Linear, nn.BatchNorm1d, nn.Dropout, nn.Identity)  # in evaluation mode


def class_activation_map(model: ConvMixer, images: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
    """Where the evidence for a class lies in each image, one value per patch.

    With mean pooling and an affine head (linear or lc) the maps are exact: the mean of a map plus the head's bias
    equals the logit of the class (Zhou et al. 2016, arXiv 1512.04150). With any other head or pooling they are those
    of Grad-CAM, which weights the feature maps by the mean gradient of the logit and keeps the positive part
    (Selvaraju et al. 2017, arXiv 1610.02391). :func:`affine_head` says which of the two a head gets.

    Args:
        model: put into evaluation mode.
        images: (N, C, H, W) float, normalised as in training, on the model's device.
        classes: (N,) int64, the class to explain in each image; by default the predicted one.

    Returns:
        (N, H', W') float32 on the model's device.
    """
    model.eval()
    with torch.no_grad():
        maps = model.blocks(model.stem(images)).float()  # as plain modules: no engine has to be chosen for a few images
        pooled = model.pooling(maps)
    affine = affine_head(model.head) if torch.allclose(pooled, maps.mean((2, 3)), rtol=1e-4, atol=1e-6) else None
    if affine is None:
        return _grad_cam(model, maps, classes)
    weight, bias = affine
    if classes is None:
        classes = (pooled.double() @ weight.t() + bias).argmax(1)
    return torch.einsum("nhyx,nh->nyx", maps.double(), weight[classes]).float()


def affine_head(head: nn.Module) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Weight (K, dim) and bias (K,), float64, of a head that is affine in evaluation mode; None for any other.

    Batch normalisation is affine in evaluation mode, so it folds into the linear layer behind it.
    """
    parts = list(head) if type(head) is nn.Sequential else [head]
    linear = [part for part in parts if isinstance(part, nn.Linear)]
    if not linear or not all(isinstance(part, _AFFINE) for part in parts):
        return None
    head = copy.deepcopy(head).double().eval()
    with torch.no_grad():
        unit = torch.eye(linear[0].in_features, dtype=torch.float64, device=linear[0].weight.device)
        bias = head(torch.zeros_like(unit[:1]))[0]
        return (head(unit) - bias).t(), bias


def _grad_cam(model: ConvMixer, maps: torch.Tensor, classes: torch.Tensor | None) -> torch.Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        maps = maps.clone().requires_grad_()
        logits = model.forward_head(maps)
        chosen = logits.argmax(1) if classes is None else classes
        (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), maps)
    return torch.einsum("nhyx,nh->nyx", maps.detach(), gradient.mean((2, 3))).relu()
