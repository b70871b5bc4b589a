"""An ONNX file as a predictor, executed by ONNX Runtime; PyTorch is not needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convmixer.errors import InputError
from convmixer.files import read_bytes
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

_ERRORS_ONLY = 3


@dataclass(frozen=True)
class OnnxPredictor(ModelFile):
    """A session of ONNX Runtime on the CPU."""

    session: Any
    """``onnxruntime.InferenceSession``."""

    @classmethod
    def load(cls, path: Path, threads: int | None = None) -> OnnxPredictor:
        """See :func:`convmixer.inference.model_file.open_model_file`."""
        onnxruntime = required("onnxruntime", "onnx", f"{path}: running it")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = threads or 0
        try:
            # As bytes: a file of somebody else's can name no other files.
            session = onnxruntime.InferenceSession(read_bytes(path), options, providers=["CPUExecutionProvider"])
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime has an exception for every status, without a common base
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise InputError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it ({reason}); give a whole file that "
                "convmixer export wrote, or update onnxruntime."
            ) from None
        info = ModelInfo.from_json(session.get_modelmeta().custom_metadata_map.get(KEY), str(path))
        inputs = session.get_inputs()  # a graph of somebody else's may have none
        kind, shape = (inputs[0].type, tuple(inputs[0].shape or ())) if inputs else ("", ())
        given = (", ".join(one.name for one in inputs) or "nothing", kind, shape)
        outputs = {output.name: tuple(output.shape or ()) for output in session.get_outputs()}
        checked_signature(str(path), info, given, outputs)
        return cls(str(path), info, session, runtime=f"ONNX Runtime {onnxruntime.__version__}")

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, H, H) uint8 → (N, K) float32."""
        return checked_logits(self, images, lambda pixels: self.session.run([LOGITS], {INPUT: pixels})[0])
