"""Does a deeper or a normalised head do better than a single linear layer?"""

from __future__ import annotations

from convmixer.experiments.definition import Experiment, PublishedResult, Row

EXPERIMENT = Experiment(
    name="classifier",
    question="Does a deeper head (RH) or a normalised one with dropout (LC) do better than a single linear layer?",
    rows=(
        Row(
            "ConvMixerRH",
            {"model": "convmixer_rh"},
            PublishedResult(test_accuracy=0.9232, train_accuracy=0.9364, epoch_seconds=33.29),
        ),
        Row(
            "ConvMixerLC",
            {"model": "convmixer_lc"},
            PublishedResult(test_accuracy=0.9220, train_accuracy=0.9364, epoch_seconds=32.18),
        ),
    ),
)
