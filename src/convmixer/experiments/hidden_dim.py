"""How much does a wider network gain, and what does it cost?"""

from __future__ import annotations

from convmixer.experiments.definition import Experiment, PublishedResult, Row

EXPERIMENT = Experiment(
    name="hidden_dim",
    question="How much does a wider network gain, and what does it cost?",
    rows=(
        Row("dim {dim}", {"dim": 128}),
        Row(
            "dim {dim}", {"dim": 512}, PublishedResult(test_accuracy=0.9305, train_accuracy=0.9654, epoch_seconds=46.41)
        ),
        Row("dim {dim}", {"dim": 1024}),
    ),
)
