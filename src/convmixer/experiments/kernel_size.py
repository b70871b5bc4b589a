"""How far should a depthwise convolution see?"""

from __future__ import annotations

from convmixer.experiments.definition import BASE, Experiment, Row

EXPERIMENT = Experiment(
    name="kernel_size",
    question="How far should the depthwise convolution see?",
    base=Row("kernel {kernel_size}", published=BASE.published),
    rows=tuple(Row("kernel {kernel_size}", {"kernel_size": k}) for k in (3, 7, 9)),
)
