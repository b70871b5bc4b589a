"""Operations and least memory traffic of a step: where it lies under the machine's roof.

The model of bytes is a lower bound for every competitor. Each convolution and each linear layer reads its input and
writes its output once, in the setting's precision; what lies between them (activation, normalisation, sums) is taken to
happen on the way, at no cost. Training reads each output's gradient and the input again, and writes the input's
gradient, which the first layer does not need. Parameters are float32: read once in inference; in training read forward
and backward, with a gradient written, and AdamW reads parameter, gradient and two moments and writes three of them.
(Williams et al., "Roofline", Communications of the ACM 52(4), 2009.)
"""

from __future__ import annotations

from typing import Any

import torch

from convmixer.bench.step import Job
from convmixer.models import build_model, count_multiply_adds, count_parameters

_PARAMETER_PASSES = {"infer": 1, "train": 10}


def flops(job: Job) -> float:
    """2 · multiply-adds of convolutions and linear layers, three times that for training."""
    once = 2.0 * job.batch_size * count_multiply_adds(job.architecture, job.image_size, job.n_classes)
    return once * (3 if job.what == "train" else 1)


def least_bytes(job: Job) -> float:
    """Memory traffic of a step by the model above."""
    layers: list[tuple[int, int]] = []

    def note(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        layers.append((inputs[0].numel(), output.numel()))

    with torch.device("meta"), torch.no_grad():  # shapes only: nothing is computed
        model = build_model(job.architecture, job.n_classes, 3, "plain").eval()
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.register_forward_hook(note)
        model(torch.empty(1, 3, job.image_size, job.image_size))
    values = sum(read + written for read, written in layers)
    if job.what == "train":
        values += sum(2 * read + written for read, written in layers) - layers[0][0]
    width = getattr(torch, job.how.precision).itemsize
    return float(values * job.batch_size * width + 4 * _PARAMETER_PASSES[job.what] * count_parameters(model))
