"""The gallery: which images are chosen, in which order, and what is said of each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convmixer.data import Dataset, DatasetInfo, Split
from convmixer.data.batches import Normalize
from convmixer.inference import evaluate_run, load
from convmixer.inference.cam import class_activation_map
from convmixer.inference.gallery import MOST, Gallery
from convmixer.models import create_model
from convmixer.training import train
from convmixer.utils.temperature import fit_temperature
from tests.helpers.cli import Run
from tests.helpers.runs import tiny_config

CLASSES = ("ant", "bee", "cow")


def split(count: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Split(images, torch.randint(0, 3, (count,), generator=generator))


def probabilities(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)).mul(3).double().softmax(1)


def test_the_right_images_in_the_right_order() -> None:
    part, odds = split(500), probabilities(500)
    found = Gallery.choose(part, odds, CLASSES)
    table = [
        (float(row.max()), i, int(row.argmax()), int(label))
        for i, (row, label) in enumerate(zip(odds, part.labels, strict=True))
    ]
    wrong = sorted((row for row in table if row[2] != row[3]), key=lambda row: -row[0])
    assert found.total_mistakes == len(wrong) > MOST
    assert [(c.confidence, c.index, c.predicted, c.true) for c in found.mistakes] == [
        (confidence, i, CLASSES[p], CLASSES[t]) for confidence, i, p, t in wrong[:MOST]
    ]
    assert [c.index for c in found.uncertain] == [i for _, i, _, _ in sorted(table)[:MOST]]
    for case in (*found.mistakes, *found.uncertain):
        assert case.true_probability == float(odds[case.index, part.labels[case.index]])
        assert (found.images[case.index] == part.images[case.index].numpy()).all()
    assert found.activations == {}


def test_files_are_named_where_there_are_any() -> None:
    part = split(5)
    named = Split(part.images, part.labels, tuple(f"train/x/{i}.png" for i in range(5)))
    cases = Gallery.choose(named, probabilities(5), CLASSES).uncertain
    assert [c.file for c in cases] == [f"train/x/{c.index}.png" for c in cases]
    assert {c.file for c in Gallery.choose(part, probabilities(5), CLASSES).uncertain} == {""}


def test_values_are_plain_and_without_pixels() -> None:
    values = Gallery.choose(split(3), probabilities(3), CLASSES).to_dict()
    assert list(values) == ["mistakes", "uncertain"]
    for case in values["uncertain"]:
        assert list(case) == ["index", "file", "true", "predicted", "confidence", "true_probability"]
        assert {type(value) for value in case.values()} == {int, str, float}


def test_maps_explain_the_predicted_class() -> None:
    part, odds = split(40), probabilities(40)
    model = create_model("convmixer_rh", dim=8, depth=1, kernel_size=3, n_classes=3)
    info = DatasetInfo("x", CLASSES, 3, 8, (0.5,) * 3, (0.3,) * 3, True, "", {})
    normalize = Normalize(info, torch.device("cpu"))
    found = Gallery.choose(part, odds, CLASSES, model, normalize)
    assert found.activations.keys() == found.images.keys()
    index = found.mistakes[0].index
    (expected,) = class_activation_map(model, normalize(part.images[[index]]), odds[[index]].argmax(1))
    np.testing.assert_allclose(found.activations[index], expected.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "heading"), [(0, "No mistakes"), (3, "All 3 mistakes"), (30, "The 24 most confident of 30")]
)
def test_the_picture_says_how_many_mistakes_there_are(wrong: int, heading: str) -> None:
    part = split(60)
    odds = torch.nn.functional.one_hot(part.labels, 3).double()
    odds[:wrong] = odds[:wrong].roll(1, dims=1)
    figure = Gallery.choose(part, odds, CLASSES).figure()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[0].startswith(heading)
    assert sum("→" in text for text in texts[1:]) == min(wrong, MOST) + min(wrong, MOST)  # the first ones are both


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    path = tmp_path_factory.mktemp("gallery") / "run"
    train(tiny_config(epochs=3, lr=0.05, crop="none", randaugment=0), path, dataset=digits)
    return path


@pytest.mark.slow
def test_a_run_keeps_its_mistakes_and_a_picture_of_them(run: Path, digits: Dataset) -> None:
    kept = json.loads((run / "evaluation_test.json").read_text())
    with Image.open(run / "mistakes_test.png") as picture:
        assert picture.size[0] > 1000
    test = digits.splits["test"]
    assert len(kept["mistakes"]) == MOST  # of a model that is hardly trained
    confidences = [case["confidence"] for case in kept["mistakes"]]
    assert confidences == sorted(confidences, reverse=True)
    for case in kept["mistakes"]:
        assert case["true"] == digits.info.classes[int(test.labels[case["index"]])] != case["predicted"]
    (answer,) = load(run, device="cpu").predict([test.images[kept["mistakes"][0]["index"]].numpy()], top_k=1)
    assert answer.classes[0] == kept["mistakes"][0]["predicted"]
    assert answer.probabilities[0] == pytest.approx(confidences[0], abs=1e-4)


def test_the_temperature_is_fitted_on_validation_and_judged_on_test(run: Path, digits: Dataset) -> None:
    evaluation = evaluate_run(run, dataset=digits, device="cpu")
    scaling, predictor = evaluation.temperature_scaling, load(run, device="cpu")
    val, test = digits.splits["val"], digits.splits["test"]
    assert scaling is not None
    temperature = fit_temperature(predictor.logits(val.images.numpy()), val.labels)
    assert scaling.temperature == pytest.approx(temperature, rel=1e-3)
    assert scaling.validation_images == len(val)
    logits = torch.from_numpy(predictor.logits(test.images.numpy())).double()
    assert scaling.loss_before == evaluation.figures.loss
    expected = torch.nn.functional.cross_entropy(logits / scaling.temperature, test.labels)
    assert scaling.loss == pytest.approx(expected.item(), rel=1e-4)
    kept = json.loads((run / "evaluation_test.json").read_text())["temperature_scaling"]
    assert kept == pytest.approx(scaling.to_dict(), rel=1e-5)  # training evaluates its model as it is, not fused
    assert evaluate_run(run, "val", dataset=digits).temperature_scaling is None  # it was fitted there


@pytest.mark.slow
def test_without_a_validation_split_no_temperature_is_fitted(tmp_path: Path, digits: Dataset) -> None:
    whole = Dataset(digits.info, {name: digits.splits[name] for name in ("train", "test")})
    train(tiny_config(epochs=1, protocol="original"), tmp_path / "run", dataset=whole)
    assert evaluate_run(tmp_path / "run", dataset=whole).temperature_scaling is None
    kept = json.loads((tmp_path / "run" / "evaluation_test.json").read_text())
    assert kept["temperature_scaling"] is None
    assert kept["mistakes"]


def test_predictions_are_explained_in_a_picture(run: Path, digits: Dataset, convmixer: Run, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(digits.splits["test"].images[:3, 0].numpy()):
        Image.fromarray(image).resize((20, 30)).save(folder / f"{i}.png")
    (folder / "no image.png").write_bytes(b"?")
    status, out, err = convmixer("predict", run, folder, "--cam", "cam.png")
    assert status == 2  # one of them is unreadable
    assert out.count(".png:") == 3
    assert "Written: cam.png" in err
    with Image.open("cam.png") as picture:
        assert picture.size[0] > 1000
    for flags, message in (
        ((folder, "--cam", "cam.txt"), "--cam: cam.txt is neither"),
        (("-", "--cam", "a.png"), "stdin"),
    ):
        status, _, err = convmixer("predict", run, *flags)
        assert status == 2
        assert message in err
