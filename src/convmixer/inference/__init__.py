"""From a trained model and images to answers: evaluation, prediction, test-time augmentation.

The names below are loaded when first used: model files are run without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convmixer.inference.cam import class_activation_map as class_activation_map
    from convmixer.inference.deployed import Deployed as Deployed
    from convmixer.inference.evaluate import RunEvaluation as RunEvaluation
    from convmixer.inference.evaluate import SplitEvaluation as SplitEvaluation
    from convmixer.inference.evaluate import evaluate_run as evaluate_run
    from convmixer.inference.evaluate import evaluate_split as evaluate_split
    from convmixer.inference.evaluate import write_evaluation as write_evaluation
    from convmixer.inference.model_file import ModelInfo as ModelInfo
    from convmixer.inference.model_file import open_model_file as open_model_file
    from convmixer.inference.predict import Prediction as Prediction
    from convmixer.inference.predict import Unreadable as Unreadable
    from convmixer.inference.predict import predict_images as predict_images
    from convmixer.inference.predictor import ImageInput as ImageInput
    from convmixer.inference.predictor import Predictor as Predictor
    from convmixer.inference.torch_predictor import TorchPredictor as TorchPredictor
    from convmixer.inference.torch_predictor import load as load

_HOME = {
    "Deployed": "deployed",
    "ImageInput": "predictor",
    "ModelInfo": "model_file",
    "Prediction": "predict",
    "Predictor": "predictor",
    "RunEvaluation": "evaluate",
    "SplitEvaluation": "evaluate",
    "TorchPredictor": "torch_predictor",
    "Unreadable": "predict",
    "class_activation_map": "cam",
    "evaluate_run": "evaluate",
    "evaluate_split": "evaluate",
    "load": "torch_predictor",
    "open_model_file": "model_file",
    "predict_images": "predict",
    "write_evaluation": "evaluate",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
