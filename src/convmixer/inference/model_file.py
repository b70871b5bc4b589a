"""Model files that run without this project's runs: what is written into each, and which predictor reads which."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convmixer.config import ModelConfig
from convmixer.errors import InputError
from convmixer.inference.predictor import ImageInput, Predictor
from convmixer.records import build, parse_json

KEY = "convmixer"
"""Of the description in a file's metadata."""
INPUT, LOGITS, PROBABILITIES = "images", "logits", "probabilities"
"""Names of a graph's input, (N, C, H, H) uint8, and outputs, (N, K) float32. N is chosen anew in every call."""

_READERS = {
    ".onnx": "convmixer.inference.onnx_predictor:OnnxPredictor",
    ".xml": "convmixer.inference.openvino_predictor:OpenVinoPredictor",
    ".pt2": "convmixer.inference.program_predictor:ProgramPredictor",
    ".safetensors": "convmixer.inference.program_predictor:WeightsPredictor",
}
"""By suffix, the class that executes the file; its module imports what it needs when it is used."""
_RUNS_CODE = frozenset({".pt2"})


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The run that a model comes from."""

    run: str
    """Name of its directory."""
    identity: str
    """Hash of its configuration."""
    dataset: str
    fingerprint: str
    """Of the data; see :class:`convmixer.data.DatasetInfo`."""
    weights_sha256: str
    """Of its ``model.safetensors``."""
    epoch: int | None
    """That the weights are of."""
    test_accuracy: float | None
    """As the run measured it, a fraction."""
    commit: str | None
    """That it was trained with."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a model file says of its model: JSON under the key ``convmixer`` of the file's metadata."""

    classes: tuple[str, ...]
    """In the order of the outputs."""
    image_size: int
    """Side of the input in pixels."""
    channels: int
    """3 (RGB) or 1 (grey)."""
    resize: str
    """How images of other sizes get there."""
    mean: tuple[float, ...]
    """Per channel, of pixels scaled to [0, 1]. Formats that hold a graph have the normalisation in it."""
    std: tuple[float, ...]
    architecture: ModelConfig
    origin: Origin
    opset: int | None = None
    """Of ONNX operators, where the file has them."""
    precision: str = "float32"
    """Of weights and arithmetic: float32 or int8."""
    changes: tuple[dict[str, Any], ...] = field(default=())
    """What was done to the model after training, in order."""
    written_by: str = ""
    """Version of this package."""

    @property
    def input(self) -> ImageInput:
        """The images that the model takes."""
        return ImageInput(self.image_size, self.channels, self.resize)

    def to_json(self) -> str:
        """The text in the file."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | None, where: str) -> ModelInfo:
        """The inverse of :meth:`to_json`; ``where`` is the file.

        Raises:
            InputError: there is no such text, or it is none of ours.
        """
        if not text:
            raise InputError(
                f"{where}: does not say what its classes and images are; give a file that convmixer export wrote."
            )
        info = build(cls, parse_json(text, f"{where}, metadata"), f"{where}, metadata", others=True)
        if not info.classes or info.image_size < 1 or info.channels not in (1, 3):
            raise InputError(f"{where}: describes no classes or no images; give a file that convmixer export wrote.")
        sizes = {len(info.mean), len(info.std), info.channels}
        if len(sizes) > 1 or not all(map(math.isfinite, (*info.mean, *info.std))) or min(info.std) <= 0:
            raise InputError(
                f"{where}: has no mean and deviation above 0 for each of the {info.channels} channels that it "
                "describes; give a file that convmixer export wrote."
            )
        return info


@dataclass(frozen=True)
class ModelFile:
    """What predictors of all formats have in common."""

    name: str
    info: ModelInfo
    runtime: str = field(kw_only=True)
    batch_size: int = field(default=64, kw_only=True)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.info.classes

    @property
    def input(self) -> ImageInput:
        """The images that the model takes."""
        return self.info.input


class FilePredictor(Predictor, Protocol):
    """A model file, ready to run."""

    @property
    def info(self) -> ModelInfo:
        """What the file says of the model."""

    @property
    def runtime(self) -> str:
        """What executes it, with its version."""


def is_model_file(path: str | Path) -> bool:
    """Whether the suffix is that of a model file; a run directory may have any name."""
    return Path(path).suffix.lower() in _READERS and not Path(path).is_dir()


def open_model_file(path: str | Path, *, threads: int | None = None, trusted: bool = False) -> FilePredictor:
    """A model file as a predictor, on the CPU.

    Args:
        path: .onnx, .xml (OpenVINO, with the .bin beside it), .safetensors, or, ``trusted``, .pt2 (torch.export).
        threads: to compute with; by default as many as the runtime thinks best.
        trusted: whether it was written by whoever asks. PyTorch runs code that a .pt2 file may hold.

    Raises:
        InputError: no such file, none that we wrote, or its runtime is not installed.
    """
    place = Path(path)
    reader = _READERS.get(place.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: is no model file; give one that ends in {', '.join(_READERS)}.")
    if not place.is_file():
        raise InputError(f"{path}: no such file; convmixer export writes one.")
    if place.suffix.lower() in _RUNS_CODE and not trusted:
        raise InputError(
            f"{path}: PyTorch runs code that such a file may hold, so that only programs that trust it should load it; "
            "give the run, or export it to another format."
        )
    module, _, name = reader.partition(":")
    opened: FilePredictor = getattr(importlib.import_module(module), name).load(place, threads)
    return opened


def required(module: str, extra: str, what: str) -> Any:
    """An optional dependency. Raises InputError, with the extra that brings it, if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise InputError(f"{what} needs {module}; pip install 'convmixer-lab[{extra}]'.") from None


def checked_signature(
    where: str, info: ModelInfo, given: tuple[str, str, tuple[Any, ...]], outputs: dict[str, tuple[Any, ...]]
) -> None:
    """Raises InputError if a graph does not take the images, or give the answers, that its description promises.

    Args:
        where: the file.
        info: its description.
        given: of the graph's only input, name, type and shape; None, -1 or a name stand for any size.
        outputs: shapes by name, with the same signs for any size.
    """
    name, kind, shape = given
    wanted = (info.channels, info.image_size, info.image_size)
    if name != INPUT or "uint8" not in kind.replace("u8", "uint8") or tuple(shape[1:]) != wanted:
        raise InputError(
            f"{where}: takes {name} {kind} {list(shape)}, not the images (N, {', '.join(map(str, wanted))}) uint8 "
            "that it describes; export it again."
        )
    if not {LOGITS, PROBABILITIES} <= set(outputs):
        raise InputError(f"{where}: gives {', '.join(outputs)}, not {LOGITS} and {PROBABILITIES}; export it again.")
    count = len(info.classes)
    for output in (LOGITS, PROBABILITIES):
        found = outputs[output]
        if len(found) != 2 or (isinstance(found[1], int) and found[1] not in (-1, count)):
            raise InputError(
                f"{where}: gives {output} of shape {list(found)}, not (N, {count}) for the {count} classes that it "
                "describes; export it again."
            )


def checked_logits(
    model: ModelFile, images: NDArray[np.uint8], run: Callable[[NDArray[np.uint8]], Any]
) -> NDArray[np.float32]:
    """What a graph answers: images (N, C, H, H) uint8 → (N, K) float32.

    Args:
        model: whose graph it is.
        images: pixels.
        run: executes it.

    Raises:
        InputError: it cannot be run on these images, or gives other things than its description promises.
    """
    try:
        logits = np.array(run(np.ascontiguousarray(images)))
    except MemoryError:
        raise
    except Exception as error:  # every runtime has its own
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"{model.name}: {model.runtime} cannot run it on {len(images)} images ({reason}); export it again."
        ) from None
    wanted = (len(images), len(model.classes))
    if logits.dtype != np.float32 or logits.shape != wanted:
        raise InputError(
            f"{model.name}: answers with {logits.dtype} of shape {logits.shape}, not float32 of shape {wanted}; "
            "export it again."
        )
    return logits
