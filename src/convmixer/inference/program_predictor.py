"""Model files that PyTorch executes: a program of torch.export, and weights with their architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convmixer.data import DatasetInfo
from convmixer.data.batches import Normalize
from convmixer.errors import InputError
from convmixer.inference.deployed import Answers, Deployed
from convmixer.inference.model_file import KEY, ModelFile, ModelInfo
from convmixer.models import build_model, load_weights, require_fit

EXTRA = f"{KEY}.json"
"""Name of the description within a .pt2 file."""


@dataclass(frozen=True)
class ProgramPredictor(ModelFile):
    """A PyTorch module or program from images to logits and probabilities, on the CPU in float32."""

    program: Callable[[Tensor], tuple[Tensor, Tensor]]
    """(N, C, H, H) uint8 → logits and probabilities, (N, K) float32."""
    runtime: str = field(default=f"PyTorch {torch.__version__}", kw_only=True)

    @classmethod
    def load(cls, path: Path, threads: int | None = None) -> ProgramPredictor:
        """A .pt2 file; see :func:`convmixer.inference.model_file.open_model_file`."""
        _use(threads)
        extra: dict[str, Any] = {EXTRA: ""}
        try:
            program = torch.export.load(path, extra_files=extra)
        except Exception as error:  # of a damaged archive, anything
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise InputError(
                f"{path}: PyTorch {torch.__version__} cannot load it ({reason}); give a whole file that convmixer "
                "export wrote."
            ) from None
        text = extra[EXTRA]
        info = ModelInfo.from_json(text.decode() if isinstance(text, bytes) else text, str(path))
        return cls(str(path), info, program.module())

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, H, H) uint8 → (N, K) float32."""
        pixels = torch.from_numpy(images if images.flags.writeable else images.copy())
        with torch.inference_mode():
            return self.program(pixels)[0].numpy()


class WeightsPredictor(ProgramPredictor):
    """Weights (.safetensors) whose metadata say which network they are of."""

    @classmethod
    def load(cls, path: Path, threads: int | None = None) -> WeightsPredictor:
        """A .safetensors file; see :func:`convmixer.inference.model_file.open_model_file`."""
        from safetensors import SafetensorError, safe_open

        _use(threads)
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get(KEY)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: cannot be read as weights ({error}); is the file whole?") from None
        info = ModelInfo.from_json(text, str(path))
        require_fit(path, info.architecture, len(info.classes), info.channels)
        answers = answers_of(info)
        load_weights(answers.deployed.model, path)
        return cls(str(path), info, answers)


def answers_of(info: ModelInfo) -> Answers:
    """The network that ``info`` describes, with fresh weights, in evaluation mode: images to answers."""
    model = build_model(info.architecture, len(info.classes), info.channels, "plain")
    data = DatasetInfo(
        name=info.origin.dataset,
        classes=info.classes,
        channels=info.channels,
        image_size=info.image_size,
        mean=info.mean,
        std=info.std,
        mirror=False,
        fingerprint=info.origin.fingerprint,
        sizes={},
    )
    answers = Answers(Deployed(model, Normalize(data, torch.device("cpu"))))
    return answers.eval()


def _use(threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
