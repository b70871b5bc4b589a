"""From image files to class probabilities."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from convmixer.data import Split
from convmixer.data.images import IMAGE_SUFFIXES, open_image, prepare_image
from convmixer.errors import InputError
from convmixer.inference.trained import TrainedModel


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, best first."""

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be predicted, and why, in one sentence."""

    image: str
    reason: str


def predict_images(
    trained: TrainedModel, sources: Iterable[str], top_k: int = 3, batch_size: int = 64
) -> Iterator[Prediction | Unreadable]:
    """Predicts images in the order of ``sources``.

    Args:
        trained: the model to use.
        sources: image files, folders (all images below them, sorted by path), or "-" for one image's bytes on stdin.
        top_k: how many classes to name for each image.
        batch_size: images at once.
    """
    pending: list[tuple[str, torch.Tensor | str]] = []
    for item in _prepared(sources, trained):
        pending.append(item)
        if len(pending) == batch_size:
            yield from _predict_batch(trained, pending, top_k)
            pending = []
    yield from _predict_batch(trained, pending, top_k)


def _predict_batch(
    trained: TrainedModel, items: list[tuple[str, torch.Tensor | str]], top_k: int
) -> Iterator[Prediction | Unreadable]:
    images = [image for _, image in items if isinstance(image, torch.Tensor)]
    answers: Iterator[tuple[list[float], list[int]]] = iter(())
    if images:
        batch = Split(torch.stack(images), torch.zeros(len(images), dtype=torch.int64))
        best = trained.logits(batch).double().softmax(1).topk(min(top_k, len(trained.info.classes)))
        answers = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    for name, image in items:
        if isinstance(image, str):
            yield Unreadable(name, image)
        else:
            probabilities, indices = next(answers)
            yield Prediction(name, tuple(trained.info.classes[i] for i in indices), tuple(probabilities))


def _prepared(sources: Iterable[str], trained: TrainedModel) -> Iterator[tuple[str, torch.Tensor | str]]:
    """Each image's name with its (C, H, W) uint8 pixels, or with the reason why there are none."""
    for source in sources:
        try:
            names = list(_files(source))
        except InputError as error:
            yield source, str(error)
            continue
        for name in names:
            try:
                image = open_image(sys.stdin.buffer.read() if name == "-" else Path(name))
                pixels = prepare_image(image, trained.info.image_size, trained.info.channels)
            except InputError as error:
                yield name, str(error)
            else:
                yield name, torch.from_numpy(pixels)


def _files(source: str) -> Iterator[str]:
    folder = Path(source)
    if source == "-" or not folder.is_dir():
        yield source
        return
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not found:
        raise InputError(f"{source}: this folder holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    yield from found
