"""Figures: what they show is what the records say."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.container import ErrorbarContainer
from safetensors.torch import load_file

from convmixer.models import ConvMixer, ConvMixerBN
from convmixer.report.collect import Study
from convmixer.report.figures import (
    ReportFigure,
    cost_points,
    curve_bands,
    difference_points,
    draw_figures,
    featured_run,
    learned_weights,
    mean_cells,
)
from convmixer.report.records import StudyRecord
from convmixer.report.render import inlined
from convmixer.runs import RunDir
from convmixer.utils.comparisons import MainEffect
from convmixer.utils.study_figures import (
    CostPoint,
    DifferencePoint,
    accuracy_against_time,
    band,
    differences,
    heat_map,
    importances,
    marginal,
)
from convmixer.utils.study_figures import curve_bands as draw_bands
from convmixer.utils.visualization import figure_svg, styled
from convmixer.utils.weight_figures import embedding_sheet, kernel_sheet, tiled


def test_every_picture_has_words_and_a_name_of_its_own(record: StudyRecord, study: Study) -> None:
    pictures = draw_figures(record, study)
    names = [picture.name for picture in pictures]
    assert len(set(names)) == len(names)
    assert {"width_time", "width_differences", "width_held_out", "width_loss"} <= set(names)
    assert {"grid_search_importances", "grid_search_lr", "confusion", "calibration", "kernels", "patches"} <= set(names)
    assert all(len(picture.alt) > 20 and picture.title for picture in pictures)


def test_points_are_those_of_the_rows(record: StudyRecord) -> None:
    rows = record.experiments[0].rows
    assert [(p.label, p.seconds, p.accuracy) for p in cost_points(rows, {"base"})] == [
        (row.label, row.epoch_seconds, row.test_accuracy.mean) for row in rows if row.test_accuracy is not None
    ]
    (point,) = difference_points(rows)
    assert (point.label, point.difference, point.other) == ("wide & <bold>", rows[1].difference.mean, None)


def test_bands_are_those_of_the_metrics(record: StudyRecord, study: Study, study_folder: Path) -> None:
    bands = curve_bands(record.experiments[0].rows, study, lambda epoch: epoch.val_accuracy, {"base"})
    assert [b.label for b in bands] == ["base", "wide & <bold>", "broken"]  # its interrupted run has two epochs
    runs = [RunDir(study_folder / "runs" / f"base-{seed}").metrics() for seed in range(2)]
    for i, epoch in enumerate(bands[0].epochs):
        values: list[Any] = [records[epoch - 1].val_accuracy for records in runs]
        assert (bands[0].low[i], bands[0].high[i]) == (min(values), max(values))
        assert bands[0].mean[i] == pytest.approx(sum(values) / 2)


@given(st.lists(st.dictionaries(st.integers(1, 6), st.floats(0, 1)), min_size=1, max_size=4))
def test_a_band_spans_its_runs_where_all_have_been(runs: list[dict[int, float]]) -> None:
    got = band("label", runs)
    assert list(got.epochs) == sorted(epoch for epoch in range(1, 7) if all(epoch in run for run in runs))
    for i, epoch in enumerate(got.epochs):
        values = [run[epoch] for run in runs]
        assert got.low[i] == min(values) <= got.mean[i] + 1e-12
        assert got.mean[i] - 1e-12 <= max(values) == got.high[i]


def test_the_featured_run_is_chosen_on_validation(record: StudyRecord, study: Study) -> None:
    chosen = featured_run(record, study)
    assert chosen is not None
    rows = [row for row in record.experiments[0].rows if row.val_accuracy is not None]
    best = max(rows, key=lambda row: row.val_accuracy.mean)
    assert chosen.run.row.path == best.runs[0]


def lines(figure: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in figure.axes[0].lines}


def test_bands_are_drawn() -> None:
    rows = [band("a", [{1: 0.5, 2: 0.6}, {1: 0.7, 2: 0.9}]), band("b", [{1: 0.1}])]
    figure = draw_bands(rows, "accuracy", is_share=True)
    assert list(lines(figure)["a"].get_ydata()) == pytest.approx([0.6, 0.75])
    assert lines(figure)["b"].get_marker() == "o"
    corners = figure.axes[0].collections[0].get_paths()[0].get_extents()
    assert (corners.y0, corners.y1) == (0.5, 0.9)


def bars(figure: Any) -> list[ErrorbarContainer]:
    return [c for c in figure.axes[0].containers if isinstance(c, ErrorbarContainer)]


def test_costs_are_drawn_with_their_front() -> None:
    points = [
        CostPoint("a", 1.0, 0.8, 0.01, True),
        CostPoint("b", 2.0, 0.7, None, False),
        CostPoint("c", 3.0, 0.9, 0.3, True),
    ]
    figure = accuracy_against_time(points)
    front = figure.axes[0].lines[0]
    assert (list(front.get_xdata()), list(front.get_ydata())) == ([1.0, 3.0], [0.8, 0.9])
    drawn = [(bar[0].get_xdata()[0], bar[0].get_ydata()[0]) for bar in bars(figure)]
    assert drawn == [(p.seconds, p.accuracy) for p in points]
    assert figure.axes[0].get_ylim()[1] <= 1.0
    (segment,) = bars(figure)[2][2][0].get_segments()
    assert list(segment[:, 1]) == pytest.approx([0.6, 1.0])  # cut at what is possible


def test_differences_are_drawn_in_points() -> None:
    points = [DifferencePoint("a", 0.01, 0.02, 0.008), DifferencePoint("b", -0.03, None, None)]
    figure = differences(points, "the document")
    assert [bar[0].get_xdata()[0] for bar in bars(figure)] == pytest.approx([1.0, -3.0])
    (segment,) = bars(figure)[0][2][0].get_segments()
    assert list(segment[:, 0]) == pytest.approx([-1.0, 3.0])
    assert list(lines(figure)["the document"].get_xdata()) == [0.8]


def test_heat_map_writes_its_cells() -> None:
    figure = heat_map(
        [[0.5, math.nan, 0.5], [0.7, 0.9, 0.8], [0.6, 0.9, 0.7]], ("lr", [0.1, 0.01]), ("batch", [64, 128])
    )
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["50.00", "50.00", "70.00", "90.00", "80.00", "60.00", "90.00", "70.00"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["0.1", "0.01", "mean"]


def test_cells_are_means_over_all_else() -> None:
    trials = [({"a": 1, "b": 1, "c": c}, 0.5 + c / 10) for c in (0, 1)] + [({"a": 2, "b": 1, "c": 0}, 0.9)]
    got = mean_cells(trials, ("a", [1, 2]), ("b", [1, 3]))
    np.testing.assert_allclose(got, [[0.55, math.nan, 0.55], [0.9, math.nan, 0.9], [2 / 3, math.nan, 2 / 3]])


def test_marginal_shows_trials_and_means() -> None:
    figure = marginal("lr", [(0.1, 0.5), (0.1, 0.7), (0.01, 0.9)], [(0.01, 0.9), (0.1, 0.6)])
    assert list(lines(figure)["a trial"].get_xdata()) == [0.1, 0.1, 0.01]
    assert list(lines(figure)["mean"].get_ydata()) == [0.9, 0.6]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0.01", "0.1"]
    assert figure.axes[0].get_xscale() == "log"
    assert marginal("momentum", [(0.9, 0.5), (1.0, 0.6)], [(0.9, 0.5), (1.0, 0.6)]).axes[0].get_xscale() == "linear"


def test_importances_stand_beside_chance() -> None:
    figure = importances([MainEffect("lr", 0.7, 0.1), MainEffect("wd", 0.05, 0.1)])
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.7, 0.05]  # type: ignore[attr-defined]
    assert list(lines(figure)["by chance"].get_xdata()) == [0.1, 0.1]


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2))
def test_tiles_lie_where_they_should(n: int, columns: int, gap: int) -> None:
    tiles = [np.full((2, 3), float(i)) for i in range(n)]
    sheet = tiled(tiles, columns, gap)
    for i in range(n):
        y, x = i // columns * (2 + gap), i % columns * (3 + gap)
        assert (sheet[y : y + 2, x : x + 3] == i).all()
    assert (~np.isnan(sheet)).sum() == 6 * n


@pytest.mark.parametrize("make", [ConvMixer, ConvMixerBN])
def test_learned_weights_of_both_branches(make: type[ConvMixer], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = make(16, 3, kernel_size=5, patch_size=2)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    kernels, patches = learned_weights(tmp_path / "model.safetensors")
    width = 16 if make is ConvMixer else 8
    assert [kernel.shape for kernel in kernels] == [(width, 5, 5)] * 3
    saved = load_file(tmp_path / "model.safetensors")
    index = 0 if make is ConvMixer else 3
    np.testing.assert_allclose(kernels[2], saved[f"blocks.2.0.fn.{index}.weight"][:, 0].numpy())
    np.testing.assert_allclose(patches, saved["stem.0.weight"].numpy())


def test_no_weights_no_pictures(tmp_path: Path) -> None:
    assert learned_weights(tmp_path / "none") == ([], None)
    (tmp_path / "broken").write_bytes(b"broken")
    assert learned_weights(tmp_path / "broken") == ([], None)


def test_sheets_show_signs_and_colours() -> None:
    kernels = np.zeros((2, 3, 3))
    kernels[0, 1, 1], kernels[1, 0, 0] = 2.0, -0.5
    image = np.asarray(kernel_sheet([kernels]).axes[0].images[0].get_array().filled(np.nan))
    assert (image[1, 1], image[0, 4]) == (1.0, -1.0)
    mixed = np.asarray(kernel_sheet([np.ones((2, 5, 5)), -kernels]).axes[0].images[0].get_array().filled(np.nan))
    assert mixed.shape == (11, 11)
    assert (mixed[:5, :5] == 1.0).all()
    assert (mixed[8, 2], mixed[7, 7]) == (-1.0, 1.0)  # in the middle of tiles of 5 × 5
    assert np.isnan(mixed[6, :5]).all()
    weights = np.zeros((1, 3, 2, 2))
    weights[0, 0] = 1.0
    red = np.asarray(embedding_sheet(weights).axes[0].images[0].get_array())
    np.testing.assert_allclose(red[0, 0], [1.0, 0.5, 0.5, 1.0])
    assert embedding_sheet(np.zeros((3, 1, 1, 1))).axes[0].images[0].get_array().shape == (1, 5, 4)


def test_kernels_of_several_sizes_share_a_sheet() -> None:
    image = np.asarray(kernel_sheet([np.ones((2, 5, 5)), np.ones((2, 3, 3))]).axes[0].images[0].get_array().filled(0))
    assert image.shape == (11, 11)
    assert (image[:5, :5] == 1).all()
    assert (image[7:10, 1:4] == 1).all()
    assert image[6:, :5].sum() == 9


def many(n: int) -> list[CostPoint]:
    return [CostPoint(f"a row with a rather long name, number {i}", 1 + i, 0.5, None, False, i < 6) for i in range(n)]


def panel_height(figure: Any) -> float:
    with styled():
        figure.draw_without_rendering()
    return float(figure.axes[0].get_window_extent().height)


@pytest.mark.parametrize("n", [2, 8, 52, 200])
def test_a_panel_is_as_high_with_many_rows_as_with_few(n: int) -> None:
    figure = accuracy_against_time(many(n))
    assert panel_height(figure) == pytest.approx(panel_height(accuracy_against_time(many(4))), rel=0.08)
    drawn = [(line.get_xdata(), line.get_ydata()) for line in figure.axes[0].lines]
    assert sum(np.size(x) for x, _ in drawn) >= n
    if n > 6:
        assert list(lines(figure)[f"{n - 6} others"].get_xdata()) == list(range(7, n + 1))


LONG = [
    "factor 2, 4 epochs: equal multiply-adds",
    "W" * 90,
    "one name of many words that goes on and on, up to a second line and a third one, which is where it ends at last",
    "猫" * 40,
    "short",
]


@pytest.mark.parametrize("labels", [LONG, LONG[:1] * 2, ["a", "b", "c"], LONG[-1:]])
def test_legends_are_never_cut(labels: list[str]) -> None:
    rows = [CostPoint(label, 1.0 + i, 0.5, None, False) for i, label in enumerate(labels)]
    figure = accuracy_against_time(rows)
    assert panel_height(figure) > 150
    with styled():
        box, page = figure.legends[0].get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 < box.x1 <= page.x1
    assert page.y0 <= box.y0 < box.y1 <= page.y1
    texts = [text.get_text().replace("\n", "").replace(" ", "") for text in figure.legends[0].get_texts()]
    assert texts == [label.replace(" ", "") for label in labels]


def test_logarithmic_axes_have_plain_numbers() -> None:
    trials = [(value, 0.5) for value in (0.0012, 0.004, 0.013, 0.05, 0.09)]
    figure = marginal("lr", trials, [(0.0026, 0.5), (0.07, 0.5)])
    with styled():
        figure.draw_without_rendering()
    low, high = figure.axes[0].get_xlim()
    ticks = [t for t in figure.axes[0].get_xticklabels() if low <= t.get_position()[0] <= high]
    assert {"0.002", "0.01", "0.05"} <= {text.get_text() for text in ticks}
    boxes = [text.get_window_extent() for text in ticks if text.get_text()]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_points_carry_their_values_for_readers_who_point_at_them() -> None:
    figure = accuracy_against_time([CostPoint('a "b" <c>', 1.5, 0.8, 0.01, True)])
    svg = figure_svg(figure)
    assert "class='tip' data-tip='a \"b\" &lt;c&gt;: 80.00%\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}1.00 at 1.5" in svg
    assert inlined(ReportFigure("section", "name", "title", "alt", figure)).count("data-tip=") == 1
    bands = draw_bands([band("a", [{1: 0.5, 2: 0.6}]), band("b", [{1: 0.1, 2: 0.2}])], "accuracy", is_share=True)
    tips = re.findall(r'<use class="tip" data-tip="([^"]*)"', figure_svg(bands))
    assert tips == ["a, epoch 2: 60.00%", "a, epoch 1: 50.00%", "b, epoch 2: 20.00%", "b, epoch 1: 10.00%"]


def test_svg_keeps_texts_as_texts() -> None:
    svg = figure_svg(importances([MainEffect("batch_size", 0.7, 0.1)]))
    assert ">batch_size</text>" in svg
