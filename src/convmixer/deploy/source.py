"""What is exported: a run's weights as a module from pixels to answers, and the description that goes with it."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from convmixer.errors import InputError
from convmixer.inference.deployed import Answers
from convmixer.inference.model_file import ModelInfo, Origin
from convmixer.inference.predictor import ImageInput
from convmixer.inference.program_predictor import ProgramPredictor, answers_of
from convmixer.models import load_weights
from convmixer.runs import RunDir
from convmixer.version import __version__


@dataclass(frozen=True)
class Source:
    """A trained model on the CPU, in float32, executed by PyTorch's own modules."""

    info: ModelInfo
    answers: Answers

    @classmethod
    def of_run(cls, run: RunDir) -> Source:
        """The selected weights of a run.

        Raises:
            InputError: the run has not finished, or its files are not what was written.
        """
        info = describe_run(run)
        answers = answers_of(info)
        load_weights(answers.deployed.model, run.weights)
        return cls(info, answers)

    def predictor(self) -> ProgramPredictor:
        """The model as it is in this process: what a written file has to agree with."""
        return ProgramPredictor(self.info.origin.run, self.info, self.answers)

    def exact_logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Images (N, C, H, H) → logits (N, K) with the network computed in float64; slow."""
        deployed = self.answers.deployed
        network = copy.deepcopy(deployed.model).double()
        with torch.inference_mode():
            logits: NDArray[np.float64] = network(deployed.normalize(torch.from_numpy(images)).double()).numpy()
        return logits


def describe_run(run: RunDir) -> ModelInfo:
    """What files made from a run say of it.

    Raises:
        InputError: the run has not finished, or its files are not what was written.
    """
    if not run.has_weights():
        raise InputError(
            f"{run.path}: has no {run.weights.name}; the run is {run.status()}, finish it with convmixer train "
            f"--out {run.path} --resume."
        )
    config, data, summary = run.config(), run.dataset(), run.summary()
    commit = run.environment().get("commit")
    origin = Origin(
        run=run.path.resolve().name,
        identity=config.identity_hash(),
        dataset=data.name,
        fingerprint=data.fingerprint,
        weights_sha256=hashlib.sha256(run.manifest.read(run.weights.name) or b"").hexdigest(),
        epoch=summary.selected_epoch if summary else None,
        test_accuracy=summary.test_accuracy if summary else None,
        commit=commit if isinstance(commit, str) else None,
    )
    return ModelInfo(
        classes=data.classes,
        image_size=data.image_size,
        channels=data.channels,
        resize=ImageInput(data.image_size, data.channels).resize,
        mean=data.mean,
        std=data.std,
        architecture=config.architecture,
        origin=origin,
        written_by=__version__,
    )
