"""From a trained model and images to answers: evaluation, prediction, test-time augmentation."""

from convmixer.inference.evaluate import RunEvaluation, evaluate_run, write_evaluation
from convmixer.inference.predict import Prediction, Unreadable, predict_images
from convmixer.inference.trained import TrainedModel

__all__ = [
    "Prediction",
    "RunEvaluation",
    "TrainedModel",
    "Unreadable",
    "evaluate_run",
    "predict_images",
    "write_evaluation",
]
