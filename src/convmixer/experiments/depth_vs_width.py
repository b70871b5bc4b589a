"""Should a given number of parameters go into depth or into width?"""

from __future__ import annotations

from convmixer.experiments.definition import BASE, Experiment, Row

EXPERIMENT = Experiment(
    name="depth_vs_width",
    question="Should a given number of parameters go into depth or into width?",
    base=Row("{dim}/{depth}", published=BASE.published),
    rows=tuple(Row("{dim}/{depth}", {"depth": depth}, equal="parameters") for depth in (4, 16, 32)),
)
