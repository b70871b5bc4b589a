"""Two runs on the same images: how often one is right where the other is wrong, and whether that can be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from convmixer.config import Device
from convmixer.errors import InputError
from convmixer.inference.evaluate import predict_logits
from convmixer.inference.torch_predictor import TorchPredictor
from convmixer.runs import RunDir
from convmixer.runs.data import load_own_data


@dataclass(frozen=True)
class PairedTest:
    """The exact McNemar test of two classifiers on the same images."""

    images: int
    only_first: int
    """Images that only the first one classifies correctly."""
    only_second: int
    difference: float
    """Accuracy of the second minus that of the first, a fraction."""
    half_width: float
    """Half of the 95% interval of the difference (Wald, paired); images are drawn anew, seeds are not."""
    p_value: float
    """Probability of so unequal counts, or more so, if both classifiers were equally good."""


def mcnemar(first: torch.Tensor, second: torch.Tensor) -> PairedTest:
    """Compares two (N,) bool tensors that say which images were classified correctly (McNemar 1947; exact)."""
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n, unequal = len(first), only_first + only_second
    difference = (only_second - only_first) / n
    deviation = math.sqrt(max(unequal - (only_second - only_first) ** 2 / n, 0.0)) / n
    p = float(binomtest(only_second, unequal, 0.5).pvalue) if unequal else 1.0
    return PairedTest(n, only_first, only_second, difference, 1.959964 * deviation, p)


def correct_answers(paths: Sequence[Path], split: str = "test", *, device: Device = "auto") -> list[torch.Tensor]:
    """Which images of a split each run classifies correctly: (N,) bool tensors, in the order of the images.

    Raises:
        InputError: runs on other data than the first one's, without weights, or without such a split.
    """
    runs = [RunDir.existing(path) for path in paths]
    data = load_own_data(runs[0])
    if split not in data.splits:
        raise InputError(f"--split: {runs[0].path} has no {split} part; choose from {', '.join(data.splits)}.")
    for run in runs[1:]:
        if run.dataset().fingerprint != data.info.fingerprint or run.dataset().sizes != data.info.sizes:
            raise InputError(f"{run.path}: was trained on other images, or other parts of them, than {runs[0].path}.")
    part = data.splits[split]
    answers = []
    for run in runs:
        predictor = TorchPredictor.load(run, device)
        answers.append(torch.from_numpy(predict_logits(predictor, part.images)).argmax(1) == part.labels)
    return answers
