"""Training, evaluation and prediction, and the run directory that connects them."""

from convmixer.training.evaluate import RunEvaluation, TrainedModel, evaluate_run, write_evaluation
from convmixer.training.pool import RunCrashedError, RunPool
from convmixer.training.predict import Prediction, Unreadable, predict_images
from convmixer.training.run_dir import (
    EpochRecord,
    RunBusyError,
    RunDir,
    Summary,
    default_path,
    newest_path,
    unused_path,
)
from convmixer.training.train import read_test_set, train

__all__ = [
    "EpochRecord",
    "Prediction",
    "RunBusyError",
    "RunCrashedError",
    "RunDir",
    "RunEvaluation",
    "RunPool",
    "Summary",
    "TrainedModel",
    "Unreadable",
    "default_path",
    "evaluate_run",
    "newest_path",
    "predict_images",
    "read_test_set",
    "train",
    "unused_path",
    "write_evaluation",
]
