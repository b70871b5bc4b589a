"""A run as a folder that Hugging Face and timm load, with a model card made from its records."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convmixer.deploy.check import CheckImages, Comparison, check_images, compare, require_equal
from convmixer.deploy.formats import FORMATS
from convmixer.deploy.model_card import model_card
from convmixer.deploy.source import Source
from convmixer.errors import InputError
from convmixer.files import read_bytes, sync, temporary_folder
from convmixer.inference.model_file import ModelInfo, open_model_file
from convmixer.models import ConvMixer
from convmixer.models.pretrained import CARD, CONFIG, WEIGHTS, check_folder, hub_config, push_folder
from convmixer.runs import RunDir


@dataclass(frozen=True)
class Saved:
    """A folder that was written, and found to answer as the run does."""

    folder: Path
    architecture: str
    """As timm calls it, or as it is called once :func:`~convmixer.models.timm_models.register_with_timm` was called."""
    bytes: int
    """Of the weights."""
    check: Comparison
    address: str | None = None
    """Of the repository that it was uploaded to."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"folder": str(self.folder), "check": self.check.to_dict()}


def save_pretrained(
    path: str | Path,
    folder: str | Path | None = None,
    *,
    images: CheckImages | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Saved:
    """Writes config.json, model.safetensors and README.md, the model card, for a finished run.

    A card that is there already and names these very weights stays as its owner has completed it.

    Args:
        path: the run directory.
        folder: to write to; by default ``hub`` in the run directory.
        images: to check the weights on; by default the run's test images.
        progress: called with the number of images checked.

    Raises:
        InputError: no finished run, or a folder that holds other things.
        RuntimeError: what was written does not answer as the run does; it is not kept.
    """
    run = RunDir.existing(path)
    place = run.path / "hub" if folder is None else Path(folder)
    check_folder(place)
    if not place.absolute().parent.is_dir():
        raise InputError(f"--out: {place.parent} is no folder; make it, or choose another place.")
    source = Source.of_run(run)
    network, info = source.answers.deployed.model, source.info
    assert isinstance(network, ConvMixer)
    network.default_cfg |= {
        "input_size": (info.channels, info.image_size, info.image_size),
        "mean": info.mean,
        "std": info.std,
    }
    config = hub_config(network, about=asdict(info), labels=info.classes)
    images = check_images(run) if images is None else images
    with temporary_folder(place.absolute().parent, place.absolute().name) as written:
        FORMATS["safetensors"].write(source, written / WEIGHTS)
        opened = open_model_file(written / WEIGHTS)
        found = compare(source.predictor(), opened, images, exact=source.exact_logits, progress=progress)
        require_equal(found, opened)
        (written / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        card = _kept_card(place / CARD, info) or model_card(run, info, config["architecture"])
        (written / CARD).write_text(card, encoding="utf-8")
        size = (written / WEIGHTS).stat().st_size
        place.mkdir(exist_ok=True)
        for name in (WEIGHTS, CARD, CONFIG):
            sync(written / name)
            (written / name).replace(place / name)
        sync(place)
    return Saved(place, config["architecture"], size, found)


def _kept_card(file: Path, info: ModelInfo) -> str:
    """The card that is there, if it is about the same weights; else ''."""
    text = read_bytes(file).decode("utf-8", errors="replace") if file.exists() else ""
    return text if info.origin.weights_sha256 in text else ""


def push_to_hub(path: str | Path, repository: str, *, private: bool = False) -> str:
    """Uploads what :func:`save_pretrained` writes; other arguments, result and errors as ``push_folder`` has them."""
    with tempfile.TemporaryDirectory() as folder:
        saved = save_pretrained(path, Path(folder) / "hub")
        return push_folder(saved.folder, repository, private=private)
