"""What do smaller patches gain for the time that they cost?"""

from __future__ import annotations

from convmixer.experiments.definition import BASE, Experiment, Row

EXPERIMENT = Experiment(
    name="patch_size",
    question="What do smaller patches gain for the time that they cost?",
    base=Row("patch {patch_size}", published=BASE.published),
    rows=tuple(Row("patch {patch_size}", {"patch_size": p}) for p in (1, 4)),
)
