"""The roofline draws what its rows say."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.text import Annotation
from PIL import Image

from convmixer.utils.bench_figures import RooflinePanel, RooflinePoint, roofline
from convmixer.utils.visualization import save_figure

POINTS = tuple(
    RooflinePoint(name, precision, intensity, rate, name == "fast")
    for name, precision, intensity, rate in (
        ("plain", "float32", 40.0, 1e10),
        ("fast", "bfloat16", 80.0, 2e11),
        ("bf16", "bfloat16", 80.0, 1.99e11),
    )
)
PANEL = RooflinePanel("train", POINTS, {"float32": 2e11, "bfloat16": 4e11}, 2e10)


def test_points_and_roof_are_where_the_rows_say(tmp_path: Path) -> None:
    figure = roofline([PANEL, PANEL, PANEL])
    axes = figure.axes[0]
    lines = [tuple(zip(*line.get_data(), strict=True)) for line in axes.lines]
    for point in POINTS:
        assert ((point.flops_per_byte, point.flops_per_second),) in lines
    for rate in PANEL.gemm_flops_per_second.values():  # the flat part begins where memory allows as much
        assert any(line[0] == (rate / 2e10, rate) for line in lines)
    assert len(figure.axes) == 4
    assert not figure.axes[3].axison
    save_figure(figure, tmp_path / "roofline.png")
    with Image.open(tmp_path / "roofline.png") as image:
        assert image.width > 1000


def test_names_stand_apart_and_in_order() -> None:
    figure = roofline([PANEL])
    named = {t.get_text().split("  ")[0]: t.xyann[1] for t in figure.axes[0].texts if isinstance(t, Annotation)}
    heights = [named[name] for name in ("plain", "bf16", "fast")]
    assert heights == sorted(heights)
    assert heights[2] - heights[1] > 0.05
    assert heights[2] <= 1.0
    assert any("200 GFLOP/s" in text.get_text() for text in figure.axes[0].texts)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        roofline([])
