"""How much of the accuracy is the training recipe?"""

from __future__ import annotations

from convmixer.experiments.definition import BASE, Experiment, Row

EXPERIMENT = Experiment(
    name="recipes",
    question="How much of the accuracy is the training recipe, with the same network and as many epochs?",
    base=Row("{recipe}", published=BASE.published),
    rows=tuple(Row("{recipe}", {"recipe": name}) for name in ("strong", "strong-short", "baseline")),
)
