"""A run's selected weights as one native call on the CPU; PyTorch is not needed."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmixer.config import Device
from convmixer.inference.predictor import ImageInput
from convmixer.kernels import plan
from convmixer.kernels.plan import Plan
from convmixer.parts.plans import network_layers
from convmixer.runs import RunDir


@dataclass(frozen=True)
class PlanPredictor:
    """Pixels to logits."""

    name: str
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    input: ImageInput
    """The images that the model was trained on."""
    plan: Plan
    batch_size: int = field(default=500, kw_only=True)

    @classmethod
    def load(cls, run: RunDir, device: Device = "auto") -> PlanPredictor | None:
        """The predictor of a finished run, None where PyTorch is to do it.

        That is with another device or engine, without a C++ compiler, for parts that have no plan, and for weights
        that do not fit, of which PyTorch's way says more.
        """
        if not _is_wanted(device) or not run.has_weights() or plan.library() is None:
            return None
        config, data = run.config().architecture, run.dataset()
        state = _weights(run)
        if state is None:
            return None
        try:
            layers = network_layers(config.blocks(), config.branch, config.head, state, (data.mean, data.std))
            made = None if layers is None else Plan(layers, data.channels, config.patch_size)
        except (KeyError, ValueError):
            return None
        if made is None or made.width != len(data.classes):
            return None
        return cls(str(run.path), data.classes, ImageInput(data.image_size, data.channels), made)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, H, W) uint8 → (N, K) float32."""
        return self.plan.run(images)


def _is_wanted(device: Device) -> bool:
    """Whether the CPU is to compute, with the engine that is best: to ask for a GPU would mean to load PyTorch."""
    others = sys.platform == "darwin" or Path("/dev/nvidiactl").exists()
    asked = device == "cpu" or (device == "auto" and not others)
    return asked and os.environ.get("CONVMIXER_ENGINE", "auto") != "plain"


def _weights(run: RunDir) -> dict[str, NDArray[np.float32]] | None:
    """The selected weights, found to be what was written; None if they are not all finite numbers of float32."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = run.manifest.read(run.weights.name)
    try:
        state: dict[str, Any] = load(content or b"")
    except (SafetensorError, KeyError, TypeError):  # of formats that NumPy has not
        return None
    floats = {name: values for name, values in state.items() if values.ndim}
    usual = all(values.dtype == np.float32 and np.isfinite(values).all() for values in floats.values())
    return floats if usual else None
