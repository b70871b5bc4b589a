"""An OpenVINO file (.xml with its .bin) as a predictor; PyTorch is not needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convmixer.errors import InputError
from convmixer.files import open_regular
from convmixer.inference.model_file import (
    INPUT,
    KEY,
    LOGITS,
    ModelFile,
    ModelInfo,
    checked_logits,
    checked_signature,
    required,
)


@dataclass(frozen=True)
class OpenVinoPredictor(ModelFile):
    """A model that OpenVINO compiled for the CPU, in float32 where the file does not say int8."""

    compiled: Any
    """``openvino.CompiledModel``."""

    @classmethod
    def load(cls, path: Path, threads: int | None = None) -> OpenVinoPredictor:
        """See :func:`convmixer.inference.model_file.open_model_file`."""
        openvino = required("openvino", "openvino", f"{path}: running it")
        # Without the hint, OpenVINO computes in bfloat16 on machines that have it.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            options |= {"INFERENCE_NUM_THREADS": threads}
        version = openvino.get_version().partition("-")[0]
        for part in (path, path.with_suffix(".bin")):
            try:
                open_regular(part).close()  # OpenVINO would wait for a pipe
            except OSError as error:
                raise InputError(
                    f"{part}: cannot be read ({error.strerror}); give the .xml file that convmixer export wrote, with "
                    "its .bin beside it."
                ) from None
        try:
            core = openvino.Core()
            model = core.read_model(path)
            described = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
            info = ModelInfo.from_json(described, str(path))
            (given,) = model.inputs
            outputs = {output.get_any_name(): _shape(output) for output in model.outputs}
            kind = given.get_element_type().get_type_name()
            checked_signature(str(path), info, (given.get_any_name(), kind, _shape(given)), outputs)
            compiled = core.compile_model(model, "CPU", options)
        except InputError:
            raise
        except Exception as error:  # OpenVINO raises RuntimeError, and ValueError where there are other inputs
            reason = " ".join(str(error).split())[-200:].rstrip(".")
            raise InputError(
                f"{path}: OpenVINO {version} cannot load it ({reason}); give a whole .xml file that convmixer export "
                "wrote, with its .bin beside it."
            ) from None
        return cls(str(path), info, compiled, runtime=f"OpenVINO {version}")

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, H, H) uint8 → (N, K) float32."""
        return checked_logits(self, images, lambda pixels: self.compiled({INPUT: pixels})[LOGITS])


def _shape(port: Any) -> tuple[int | None, ...]:
    return tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
