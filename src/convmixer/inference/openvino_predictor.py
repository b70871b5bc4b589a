"""An OpenVINO file (.xml with its .bin) as a predictor; PyTorch is not needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convmixer.errors import InputError
from convmixer.inference.model_file import INPUT, KEY, LOGITS, ModelFile, ModelInfo, checked_signature, required


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
        try:
            core = openvino.Core()
            model = core.read_model(path)
            described = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
            info = ModelInfo.from_json(described, str(path))
            (given,) = model.inputs
            shape = tuple(None if size.is_dynamic else size.get_length() for size in given.get_partial_shape())
            outputs = tuple(output.get_any_name() for output in model.outputs)
            checked_signature(
                str(path), info, (given.get_any_name(), given.get_element_type().get_type_name(), shape), outputs
            )
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
        answers = self.compiled({INPUT: np.ascontiguousarray(images)})
        return np.array(answers[LOGITS])
