"""Whether a written file answers as the model does that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmixer.errors import InputError
from convmixer.inference.model_file import FilePredictor
from convmixer.inference.predictor import ImageInput, Predictor
from convmixer.runs import RunDir
from convmixer.runs.data import own_images

BATCHES = (1, 2, 17)
"""Numbers of images that a file has to take at once."""
TOLERANCE = 1e-4
"""Of logits in float32; of logits beyond 100, a millionth of the largest."""
ROUNDINGS = 4
"""How many times further from float64 than the reference a model may be. Two ways to compute a network in float32
differ by such factors in the largest error of a few images: 2.05 was seen, 32 blocks in OpenVINO."""
_MADE = 256
_WORST = 8  # images that are computed in float64


@dataclass(frozen=True)
class CheckImages:
    """Images to compare answers on."""

    what: str
    """Where they come from, in words."""
    images: NDArray[np.uint8]
    """(N, C, H, H)."""
    labels: NDArray[np.int64] | None = None
    """(N,); None for made images."""


@dataclass(frozen=True)
class Comparison:
    """Two models' answers to the same images."""

    images: int
    what: str
    batches: tuple[int, ...]
    largest_difference: float
    """Of logits."""
    tolerance: float
    same_answers: int
    """Images with the same most probable class."""
    ties: int
    """Of the others, those whose two best logits are closer than twice ``largest_difference`` in the reference."""
    reference_accuracy: float | None
    """A fraction; None for images without labels."""
    accuracy: float | None
    rounding: float | None = None
    """Largest difference of the reference's own logits from those in float64, on the images that differ most; None
    where ``largest_difference`` is within ``tolerance``, or nothing could be computed in float64."""
    error: float | None = None
    """The same of the other model's logits."""

    @property
    def equal(self) -> bool:
        """Whether both are the same model but for rounding.

        Some networks amplify rounding so much that float32 itself is less exact than the tolerance. What is no further
        from float64 than a few times the reference is the same model, too.
        """
        close = self.largest_difference <= self.tolerance
        if self.rounding is not None and self.error is not None:
            close = close or self.error <= ROUNDINGS * self.rounding
        return close and self.same_answers + self.ties == self.images

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"equal": self.equal}


def check_images(run: RunDir) -> CheckImages:
    """The whole test split of a run, or made images where its data are no longer there."""
    info = run.dataset()
    try:
        test = own_images(run).parts["test"]
    except (InputError, KeyError):
        return CheckImages(f"{_MADE} made images", made_images(ImageInput(info.image_size, info.channels), _MADE))
    return CheckImages(f"the test images of {info.name}", test.images, test.labels)


def made_images(wanted: ImageInput, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images (N, C, H, H) of soft patches and noise, from nearly uniform to full of contrast."""
    random = np.random.default_rng(seed)
    side, channels = wanted.image_size, wanted.channels
    patch = max(1, side // 4)
    soft = random.uniform(0, 255, (count, channels, -(-side // patch), -(-side // patch)))
    soft = soft.repeat(patch, 2).repeat(patch, 3)[:, :, :side, :side]
    contrast = np.linspace(0.05, 1, count)[:, None, None, None]
    noise = random.normal(0, 30, (count, channels, side, side))
    return ((soft - 127) * contrast + 127 + noise * contrast).clip(0, 255).round().astype(np.uint8)


def compare(
    reference: Predictor,
    other: Predictor,
    given: CheckImages,
    *,
    exact: Callable[[NDArray[np.uint8]], NDArray[np.float64]] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Asks both for the logits of all images, and of a few in batches of every size in :data:`BATCHES`.

    Args:
        reference: the model as it should be.
        other: the model as it is in a file.
        given: at least one image.
        exact: the reference's logits, computed in float64; asked for a few images, and only if the two differ by more
            than the tolerance.
        progress: called with the number of images done.
    """
    differences, largest, of_image = [], 0.0, []
    for size in BATCHES:
        few = given.images[np.arange(size) % len(given.images)]
        expected, answer = reference.logits(few), other.logits(few)
        if answer.shape != expected.shape:
            raise InputError(f"{other.name}: gives {answer.shape} for {size} images, not {expected.shape}.")
        differences.append(_difference(answer, expected))
    same = ties = right = reference_right = done = 0
    margins: list[NDArray[np.float64]] = []
    step = min(reference.batch_size, other.batch_size)
    for start in range(0, len(given.images), step):
        part = given.images[start : start + step]
        expected, answer = reference.logits(part), other.logits(part)
        differences.append(_difference(answer, expected))
        of_image.append(np.nan_to_num(np.abs(answer - expected).max(1), nan=np.inf))
        largest = max(largest, float(np.abs(expected).max()))
        best, found = expected.argmax(1), answer.argmax(1)
        same += int((best == found).sum())
        differing = expected[best != found].astype(np.float64)
        margins.append(np.sort(differing, 1)[:, -1] - np.sort(differing, 1)[:, -2])
        if given.labels is not None:
            labels = given.labels[start : start + step]
            right, reference_right = right + int((found == labels).sum()), reference_right + int((best == labels).sum())
        done += len(part)
        progress(done)
    difference = max(differences)
    ties = int((np.concatenate(margins) <= 2 * difference).sum())
    labelled, tolerance = given.labels is not None, max(TOLERANCE, 1e-6 * largest)
    rounding = error = None
    if difference > tolerance and exact is not None:
        worst = np.argsort(-np.concatenate(of_image))[:_WORST]
        rounding, error = _from_exact(reference, other, given.images, worst, exact)
    return Comparison(
        images=len(given.images),
        what=given.what,
        batches=BATCHES,
        largest_difference=difference,
        tolerance=tolerance,
        same_answers=same,
        ties=ties,
        reference_accuracy=reference_right / done if labelled else None,
        accuracy=right / done if labelled else None,
        rounding=rounding,
        error=error,
    )


def _from_exact(
    reference: Predictor,
    other: Predictor,
    images: NDArray[np.uint8],
    worst: NDArray[np.intp],
    exact: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
) -> tuple[float, float]:
    """How far both are from float64, on the images that differ most and in batches of every size."""
    rounding = error = 0.0
    for chosen in (worst, *(np.arange(size) % len(images) for size in BATCHES)):
        expected = exact(images[chosen])
        rounding = max(rounding, _difference(reference.logits(images[chosen]), expected))
        error = max(error, _difference(other.logits(images[chosen]), expected))
    return rounding, error


def require_equal(found: Comparison, file: FilePredictor) -> None:
    """Raises RuntimeError if a float32 file is not the model that it was made from: the exporter's fault or ours."""
    if not found.equal:
        beyond = f"; from float64 by {found.error:.3g}, PyTorch by {found.rounding:.3g}" if found.error else ""
        raise RuntimeError(
            f"{file.runtime} answers differently than the run: logits differ by up to {found.largest_difference:.3g} "
            f"({found.tolerance:.3g} are allowed{beyond}), {found.same_answers} of {found.images} images get the same "
            "class. The file was not kept."
        )


def _difference(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    difference = float(np.abs(a.astype(np.float64) - b).max())
    return difference if np.isfinite(difference) else float("inf")
