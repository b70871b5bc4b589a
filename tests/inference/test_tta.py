"""Views of test-time augmentation, and what is reported of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from convmixer.data import Dataset
from convmixer.inference import TorchPredictor
from convmixer.inference.evaluate import evaluate_run, write_evaluation
from convmixer.inference.tta import mirrored, shifted, views
from convmixer.runs import RunDir
from convmixer.training import read_test_set, train
from tests.helpers.runs import tiny_config


@pytest.mark.parametrize(
    ("tta", "mirror", "count"),
    [("none", True, 1), ("flip", True, 2), ("flip", False, 1), ("shifts", True, 10), ("shifts", False, 5)],
)
def test_each_view_is_another_one_and_the_first_the_image(tta: str, mirror: bool, count: int) -> None:
    images = np.random.default_rng(0).random((2, 3, 6, 6))
    seen = [view(images) for view in views(tta, mirror=mirror)]
    assert np.array_equal(seen[0], images)
    assert len(seen) == len({view.tobytes() for view in seen}) == count


@pytest.mark.parametrize(("down", "right"), [(-1, 0), (1, 0), (0, -1), (0, 1), (1, -1)])
def test_shifts_repeat_the_line_that_becomes_free(down: int, right: int) -> None:
    images = np.random.default_rng(0).random((2, 3, 5, 7))
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    expected = np.roll(padded, (down, right), (2, 3))[:, :, 1:-1, 1:-1]
    result = shifted(images, down=down, right=right)
    assert np.array_equal(result, expected)
    assert result.flags.c_contiguous
    assert mirrored(images).flags.c_contiguous
    assert np.array_equal(mirrored(images), np.flip(images, 3))


@pytest.mark.slow
def test_the_mean_of_probabilities_is_reported_beside_the_plain_figures(tmp_path: Path, digits: Dataset) -> None:
    config = tiny_config(tta="shifts", epochs=3, lr=0.05)
    summary = train(config, tmp_path / "run", dataset=digits)
    plain = train(config.replace(tta="none"), tmp_path / "plain", dataset=digits)
    assert (plain.test_accuracy, plain.test_loss) == (summary.test_accuracy, summary.test_loss)
    assert (plain.selected_epoch, plain.test_accuracy_tta) == (summary.selected_epoch, None)

    trained, part = TorchPredictor.load(RunDir(tmp_path / "run"), "cpu").deployed, digits.splits["test"]
    chosen = views("shifts", mirror=False)
    assert len(chosen) == 5  # mirrored digits are other symbols
    with torch.inference_mode():
        pixels = [torch.from_numpy(view(part.images.numpy())) for view in chosen]
        seen = [trained(one).double().softmax(1) for one in pixels]
    mean = torch.stack(seen).mean(0)
    assert summary.test_accuracy_tta == pytest.approx((mean.argmax(1) == part.labels).double().mean().item())
    kept = json.loads((tmp_path / "run" / "evaluation_test.json").read_text())
    assert (kept["tta"], kept["accuracy_tta"]) == ("shifts", summary.test_accuracy_tta)
    rows = mean[torch.arange(len(part)), part.labels]
    assert kept["loss_tta"] == pytest.approx(-rows.log().mean().item(), rel=1e-4)
    assert kept["loss_tta"] != kept["loss"]


@pytest.mark.slow
def test_it_can_be_asked_for_later_and_follows_the_mirroring_of_training(tmp_path: Path, digits: Dataset) -> None:
    train(tiny_config(epochs=1, flip=True), tmp_path / "run", dataset=digits)
    assert evaluate_run(tmp_path / "run", dataset=digits).accuracy_tta is None
    evaluation = evaluate_run(tmp_path / "run", dataset=digits, tta="flip")
    assert evaluation.loss_tta != evaluation.figures.loss
    write_evaluation(evaluation, pictures=False)
    train(tiny_config(epochs=1), tmp_path / "unmirrored", dataset=digits)
    evaluation = evaluate_run(tmp_path / "unmirrored", dataset=digits, tta="flip")
    assert evaluation.loss_tta == pytest.approx(evaluation.figures.loss)


@pytest.mark.slow
def test_a_test_set_that_is_read_later_is_read_with_it(tmp_path: Path, digits: Dataset) -> None:
    config = tiny_config(tta="shifts", epochs=1)
    train(config, tmp_path / "run", dataset=digits, test=False)
    train(config, tmp_path / "whole", dataset=digits)
    later, whole = read_test_set(tmp_path / "run", dataset=digits), RunDir(tmp_path / "whole").summary()
    assert whole is not None
    assert later.test_accuracy_tta == whole.test_accuracy_tta is not None
