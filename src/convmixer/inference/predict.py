"""From images to class probabilities."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convmixer.data.image_files import IMAGE_SUFFIXES, find_images, is_folder
from convmixer.data.images import BadImage, bounded, prepare_image, prepared, refusal
from convmixer.errors import InputError
from convmixer.inference.predictor import ImageInput, Predictor

if TYPE_CHECKING:
    import torch

Picture: TypeAlias = "str | Path | Image.Image | np.ndarray | torch.Tensor"
"""An image file or a folder of them, a Pillow image, or pixels as uint8: (H, W), (H, W, C) or (C, H, W), or a batch of
these. C is 1 or 3; where both ends could be C, it is the last axis of an array and the first of a tensor."""

_Prepared = tuple[str, np.ndarray | str]
"""An image's name with its (C, H, H) uint8 pixels, or with the reason why there are none."""

_BATCH = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, best first."""

    image: str
    """Its path, or its place among the images that were given."""
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be predicted, and why, in one sentence."""

    image: str
    reason: str


def predict(predictor: Predictor, images: Picture | Iterable[Picture], top_k: int = 3) -> list[Prediction]:
    """The most probable classes of each image, in the order of the images.

    Args:
        predictor: the model to use.
        images: one image or several, of any size; a folder stands for the images below it, sorted by path.
        top_k: how many classes to name for each.

    Raises:
        InputError: an image that cannot be read, or pixels that are not uint8 of 1 or 3 channels.
    """
    if top_k < 1:
        raise InputError(f"top_k: {top_k} is out of range; give at least 1.")
    answers = []
    for answer in _answers(predictor, _prepared(images, predictor.input), top_k, _BATCH):
        if isinstance(answer, Unreadable):
            raise InputError(answer.reason)
        answers.append(answer)
    return answers


def predict_images(
    predictor: Predictor, sources: Iterable[str], top_k: int = 3, batch_size: int = _BATCH
) -> Iterator[Prediction | Unreadable]:
    """Predicts image files in the order of ``sources``, going on where one cannot be read.

    Args:
        predictor: the model to use.
        sources: image files, folders (the images that training would find below them, sorted by path), or "-" for
            one image's bytes on stdin.
        top_k: how many classes to name for each image.
        batch_size: images at once.
    """
    prepared = itertools.chain.from_iterable(_from_path(source, predictor.input) for source in sources)
    return _answers(predictor, prepared, top_k, batch_size)


def _answers(
    predictor: Predictor, prepared: Iterable[_Prepared], top_k: int, batch_size: int
) -> Iterator[Prediction | Unreadable]:
    items = iter(prepared)
    while batch := list(itertools.islice(items, batch_size)):
        yield from _predict_batch(predictor, batch, top_k)


def _predict_batch(predictor: Predictor, items: list[_Prepared], top_k: int) -> Iterator[Prediction | Unreadable]:
    images = [image for _, image in items if isinstance(image, np.ndarray)]
    best: Iterator[tuple[list[float], list[int]]] = iter(())
    if images:
        probabilities = softmax(predictor.logits(np.stack(images)))
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
        best = zip(np.take_along_axis(probabilities, order, 1).tolist(), order.tolist(), strict=True)
    for name, image in items:
        if isinstance(image, str):
            yield Unreadable(name, image)
        else:
            values, indices = next(best)
            yield Prediction(name, tuple(predictor.classes[i] for i in indices), tuple(values))


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Logits (N, K) → probabilities (N, K) in float64."""
    shifted = logits.astype(np.float64)
    powers = np.exp(shifted - shifted.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _prepared(images: Picture | Iterable[Picture], wanted: ImageInput) -> Iterator[_Prepared]:
    for number, item in enumerate(_one_by_one(images), 1):
        if isinstance(item, (str, Path)):
            yield from _from_path(str(item), wanted)
        elif isinstance(item, Image.Image):
            name = str(getattr(item, "filename", "") or f"image {number}")
            yield name, _attempt(name, partial(prepare_image, item, wanted.image_size, wanted.channels))
        else:
            yield from _from_pixels(item, f"image {number}", wanted)


def _one_by_one(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    one = isinstance(images, (str, Path, Image.Image, np.ndarray)) or _is_tensor(images)
    return [images] if one else images  # type: ignore[list-item, return-value]


def _is_tensor(pixels: object) -> bool:
    """Whether it is one of PyTorch's, which is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(pixels, torch.Tensor)


def _from_path(source: str, wanted: ImageInput) -> Iterator[_Prepared]:
    def pixels(path: str) -> np.ndarray:
        return prepared(bounded(sys.stdin.buffer) if path == "-" else path, wanted.image_size, wanted.channels)

    if source == "-" or not is_folder(source):
        yield source, _attempt(source, partial(pixels, source))
        return
    found = find_images(Path(source))
    if found.skipped:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in found.skipped.items())
        _log.info("%s: skipped files that are no images: %s.", source, kinds)
    for problem in found.problems:
        yield problem.path, f"{problem.path} {problem.reason}."
    if not found.names and not found.problems:
        yield source, f"{source}: this folder holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})."
    for name in found.names:
        path = str(Path(source) / name)
        yield path, _attempt(path, partial(pixels, path))


def _attempt(name: str, make: Callable[[], np.ndarray]) -> np.ndarray | str:
    """The pixels, or the sentence that says why there are none."""
    try:
        return make()
    except BadImage as problem:
        return refusal("stdin" if name == "-" else name, problem)
    except Exception as error:  # of an image that was opened elsewhere and not yet decoded
        return refusal(name, BadImage(f"is damaged ({error})"))


def _from_pixels(pixels: np.ndarray | torch.Tensor, name: str, wanted: ImageInput) -> Iterator[_Prepared]:
    first = _is_tensor(pixels)
    array: np.ndarray = pixels.numpy(force=True) if first else pixels  # type: ignore[union-attr, assignment]
    if array.dtype != np.uint8 or array.ndim not in (2, 3, 4):
        yield name, f"{name}: is {array.dtype} of shape {array.shape}; give uint8 pixels of one image or of a batch."
        return
    if array.ndim == 4:
        for number, image in enumerate(pixels, 1):
            yield from _from_pixels(image, f"{name}, {number}", wanted)
        return
    if array.ndim == 3:
        first, last = array.shape[0] in (1, 3) and (first or array.shape[2] not in (1, 3)), array.shape[2] in (1, 3)
        if not (first or last):
            yield name, f"{name}: has the shape {array.shape}; give (H, W, C) or (C, H, W) with C 1 or 3."
            return
        array = array.transpose(1, 2, 0) if first else array
        array = array[..., 0] if array.shape[2] == 1 else array
    yield name, prepare_image(Image.fromarray(np.ascontiguousarray(array)), wanted.image_size, wanted.channels)
