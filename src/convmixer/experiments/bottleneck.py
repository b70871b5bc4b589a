"""Is a bottleneck in the residual branch worth what it costs?"""

from __future__ import annotations

from convmixer.experiments.definition import Experiment, PublishedResult, Row

_BY_2 = {"model": "convmixer_bn", "bottleneck_factor": 2}
_BY_4 = {"model": "convmixer_bn", "bottleneck_factor": 4}

EXPERIMENT = Experiment(
    name="bottleneck",
    question=(
        "Does a bottleneck in the residual branch help: at the same width, where it has more parameters than the base, "
        "with as many parameters, and with as many multiply-adds in training?"
    ),
    rows=(
        Row("factor 2", _BY_2, PublishedResult(test_accuracy=0.9183, train_accuracy=0.9217, epoch_seconds=37.40)),
        Row("factor 4", _BY_4),
        Row("factor 2, dim {dim}: equal parameters", _BY_2, equal="parameters"),
        Row("factor 4, dim {dim}: equal parameters", _BY_4, equal="parameters"),
        Row("factor 2, {epochs} epochs: equal multiply-adds", _BY_2, equal="training"),
        Row("factor 4, {epochs} epochs: equal multiply-adds", _BY_4, equal="training"),
    ),
)
