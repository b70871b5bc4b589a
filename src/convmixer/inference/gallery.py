"""The images that a model gets wrong with most confidence, and those it is least certain of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convmixer.data import Split
from convmixer.data.batches import Normalize
from convmixer.data.images import prepared
from convmixer.inference.cam import class_activation_map
from convmixer.inference.predict import Prediction
from convmixer.inference.torch_predictor import TorchPredictor
from convmixer.models import ConvMixer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 24
"""Images of each kind."""


@dataclass(frozen=True)
class Case:
    """An image and what a model makes of it."""

    index: int
    """Of the image in its split."""
    file: str
    """Relative to the data set's folder; empty for sets that are not files."""
    true: str
    predicted: str
    confidence: float
    """Probability of the predicted class."""
    true_probability: float


@dataclass(frozen=True, eq=False)
class Gallery:
    """A choice of images that are worth looking at, with all that a picture of them needs."""

    mistakes: tuple[Case, ...]
    """Most confident first."""
    uncertain: tuple[Case, ...]
    """Least confident first, right or wrong."""
    total_mistakes: int
    images: dict[int, NDArray[np.uint8]]
    """(C, H, W) by index."""
    activations: dict[int, NDArray[np.float32]]
    """Class activation maps (H', W') of the predicted classes by index; empty where the model has none."""

    @classmethod
    def choose(
        cls,
        split: Split,
        probabilities: torch.Tensor,
        classes: Sequence[str],
        model: nn.Module | None = None,
        normalize: Normalize | None = None,
    ) -> Self:
        """The images at both ends.

        Args:
            split: N images.
            probabilities: (N, K) on the CPU.
            classes: K names.
            model: where it is a ConvMixer, its class activation maps are added.
            normalize: what the images go through in front of ``model``.
        """
        confidence, predicted = probabilities.max(1)
        wrong = (predicted != split.labels).nonzero()[:, 0]
        mistakes = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MOST].tolist()
        uncertain = confidence.argsort(stable=True)[:MOST].tolist()
        true = probabilities.gather(1, split.labels[:, None])[:, 0]

        def case(i: int) -> Case:
            label, guess = classes[int(split.labels[i])], classes[int(predicted[i])]
            file = split.names[i] if split.names else ""
            return Case(i, file, label, guess, float(confidence[i]), float(true[i]))

        chosen = sorted({*mistakes, *uncertain})
        activations: dict[int, NDArray[np.float32]] = {}
        if isinstance(model, ConvMixer) and normalize is not None and chosen:
            inputs = normalize(split.images[chosen].to(normalize.mean.device))
            maps = class_activation_map(model, inputs, predicted[chosen].to(inputs.device))
            activations = dict(zip(chosen, maps.cpu().numpy(), strict=True))
        return cls(
            mistakes=tuple(map(case, mistakes)),
            uncertain=tuple(map(case, uncertain)),
            total_mistakes=len(wrong),
            images={i: split.images[i].numpy() for i in chosen},
            activations=activations,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: ``mistakes`` and ``uncertain``, without the pixels."""
        return {"mistakes": [asdict(c) for c in self.mistakes], "uncertain": [asdict(c) for c in self.uncertain]}

    def figure(self) -> Figure:
        """A picture of all of them, with heat maps of the class activation where there are any."""
        from convmixer.utils.image_sheets import JudgedImage, gallery

        def shown(case: Case) -> JudgedImage:
            right = case.true == case.predicted
            names = case.true if right else f"{case.true} → {case.predicted}"
            odds = f"{case.confidence:.1%}" + ("" if right else f" (true {case.true_probability:.1%})")
            return JudgedImage(self.images[case.index], names, odds, self.activations.get(case.index))

        count, total = len(self.mistakes), self.total_mistakes
        first = "No mistakes"
        if total:
            which = f"All {count}" if count == total else f"The {count} most confident of {total:,}"
            first = f"{which} mistakes: true class → prediction, probability"
        second = f"The {len(self.uncertain)} least certain images, right or wrong"
        sections = ((first, self.mistakes), (second, self.uncertain))
        return gallery([(heading, [shown(case) for case in cases]) for heading, cases in sections])


def explained(predictor: TorchPredictor, predictions: Sequence[Prediction]) -> Figure:
    """A picture of image files that were predicted, with heat maps of their classes' activation.

    Args:
        predictor: a ConvMixer.
        predictions: what it says of at least one file.
    """
    from convmixer.utils.image_sheets import JudgedImage, gallery

    wanted, deployed = predictor.input, predictor.deployed
    pixels = [prepared(p.image, wanted.image_size, wanted.channels) for p in predictions]
    inputs = deployed.normalize(torch.from_numpy(np.stack(pixels)).to(predictor.device))
    labels = torch.tensor([predictor.classes.index(p.classes[0]) for p in predictions], device=predictor.device)
    assert isinstance(deployed.model, ConvMixer)
    maps = class_activation_map(deployed.model, inputs, labels).cpu().numpy()
    shown = [
        JudgedImage(image, Path(p.image).name, f"{p.classes[0]} {p.probabilities[0]:.1%}", activation)
        for p, image, activation in zip(predictions, pixels, maps, strict=True)
    ]
    return gallery([(f"{predictor.name}: predicted classes, and where the evidence for them lies", shown)])
