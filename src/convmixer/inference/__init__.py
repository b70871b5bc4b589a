"""From a trained model and images to answers: evaluation, prediction, test-time augmentation."""

from convmixer.inference.cam import class_activation_map
from convmixer.inference.deployed import Deployed
from convmixer.inference.evaluate import RunEvaluation, SplitEvaluation, evaluate_run, evaluate_split, write_evaluation
from convmixer.inference.predict import Prediction, Unreadable, predict_images
from convmixer.inference.predictor import ImageInput, Predictor
from convmixer.inference.torch_predictor import TorchPredictor, load

__all__ = [
    "Deployed",
    "ImageInput",
    "Prediction",
    "Predictor",
    "RunEvaluation",
    "SplitEvaluation",
    "TorchPredictor",
    "Unreadable",
    "class_activation_map",
    "evaluate_run",
    "evaluate_split",
    "load",
    "predict_images",
    "write_evaluation",
]
