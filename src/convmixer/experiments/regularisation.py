"""Which regularisation helps, alone and together?"""

from __future__ import annotations

from convmixer.experiments.definition import Experiment, Row

_EACH = {"dropout": 0.2, "label_smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0}

EXPERIMENT = Experiment(
    name="regularisation",
    question="Which regularisation helps, each alone and all together?",
    base=Row("none", dict.fromkeys(_EACH, 0.0)),
    rows=(
        *(Row(name.replace("_", " ") + f" {value}", {name: value}) for name, value in _EACH.items()),
        Row("all together", _EACH),
    ),
)
