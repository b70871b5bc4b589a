"""What becomes of the original study's table over several seeds, with epochs chosen on held-out images?"""

from __future__ import annotations

from convmixer.experiments import classifier, hidden_dim
from convmixer.experiments.definition import Document, Experiment, Row

_TUNED = Document(test_accuracy=0.9274, train_accuracy=0.9402, epoch_seconds=24.19)

EXPERIMENT = Experiment(
    name="document",
    question="What becomes of the original table over several seeds, with epochs chosen on held-out images?",
    rows=(
        *classifier.EXPERIMENT.rows,
        Row(
            "ConvMixerBN",
            {"model": "convmixer_bn", "bottleneck_factor": 2},
            Document(test_accuracy=0.9183, train_accuracy=0.9217, epoch_seconds=37.40),
        ),
        # The schedule overwrote the learning rate that the original search had found; these are the fields it kept.
        Row("tuned, as it ran", {"weight_decay": 1e-4, "batch_size": 256}, _TUNED),
        *(row for row in hidden_dim.EXPERIMENT.rows if row.document),
    ),
)
