"""Whatever turns images into logits can be evaluated and can predict; a run's weights are one such thing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import convmixer
from convmixer.data import Dataset, Split
from convmixer.data.augment import Augment
from convmixer.data.batches import Normalize, TrainBatches
from convmixer.errors import InputError
from convmixer.inference import (
    Deployed,
    ImageInput,
    Predictor,
    TorchPredictor,
    evaluate_run,
    evaluate_split,
    write_evaluation,
)
from convmixer.inference.evaluate import predict_logits
from convmixer.inference.predict import Prediction, predict
from convmixer.models import create_model
from convmixer.runs import RunDir
from convmixer.training import train
from tests.helpers.runs import tiny_config


class NearestMean:
    """The class whose mean image is nearest: NumPy alone."""

    name, batch_size = "nearest mean", 64

    def __init__(self, split: Split, classes: tuple[str, ...]) -> None:
        self.classes = classes
        images, labels = split.images.numpy().astype(np.float32), split.labels.numpy()
        self.means = np.stack([images[labels == label].mean(0).ravel() for label in range(len(classes))])
        self.input = ImageInput(split.images.shape[-1], split.images.shape[1])

    def logits(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (1, 8, 8)
        assert len(images) <= self.batch_size
        distance = ((images.reshape(len(images), 1, -1) - self.means) ** 2).sum(2)
        return np.asarray(-distance / 1e5, dtype=np.float32)


@pytest.fixture
def nearest(digits: Dataset) -> Predictor:
    return NearestMean(digits.splits["train"], digits.info.classes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(tiny_config(epochs=1, batch_size=100, lr=0.05), out, dataset=digits, artifacts=False, test=False)
    return out


def test_something_without_torch_is_evaluated(digits: Dataset, nearest: Predictor) -> None:
    test = digits.splits["test"]
    expected = nearest.logits(test.images[:64].numpy())
    found = evaluate_split(nearest, test, tta="shifts")
    assert np.array_equal(predict_logits(nearest, test.images)[:64], expected)
    assert found.figures.accuracy > 0.85
    assert found.figures.confusion.sum() == len(test)
    assert found.figures_tta is not None
    assert found.figures_tta.loss != found.figures.loss
    (answer,) = predict(nearest, test.images[3].numpy(), top_k=2)
    assert answer.classes[0] == str(expected[3].argmax())


def test_data_that_do_not_fit_are_refused(digits: Dataset, nearest: Predictor) -> None:
    test = digits.splits["test"]
    with pytest.raises(InputError, match=r"nearest mean: takes images of shape \(1, 8, 8\) and knows 10 classes"):
        evaluate_split(nearest, Split(test.images[..., :4], test.labels))
    with pytest.raises(InputError, match="labels up to 10"):
        evaluate_split(nearest, Split(test.images, test.labels + 1))


@pytest.mark.parametrize("channels_last", [False, True])
def test_deployed_normalises_as_training_does_bit_for_bit(digits: Dataset, channels_last: bool) -> None:
    """The oracle are the batches of a training set that no augmentation changes."""
    cpu, info, split = torch.device("cpu"), digits.info, digits.splits["train"]
    normalize = Normalize(info, cpu, channels_last)
    augment = Augment(tiny_config(crop="none", randaugment=0).augment, mean=info.mean, mirror=False)
    seen, _ = next(TrainBatches(split, len(split), 0, augment, normalize, cpu).epoch(0))
    deployed = Deployed(torch.nn.Identity(), normalize)(split.images)
    assert deployed.stride() == seen.stride()
    ours, theirs = (sorted(image.numpy().tobytes() for image in images) for images in (deployed, seen))
    assert ours == theirs


def test_deployed_is_exported(digits: Dataset) -> None:
    model = create_model("convmixer", dim=8, depth=2, kernel_size=3, in_channels=1, engine="plain").eval()
    deployed = Deployed(model, Normalize(digits.info, torch.device("cpu")), softmax=True).eval()
    images = digits.splits["test"].images
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(deployed, (images[:7],), dynamic_shapes=({0: batch},))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images[:50]), deployed(images[:50]))
        logits = model(deployed.normalize(images[:50]))
    torch.testing.assert_close(deployed(images[:50]), logits.softmax(1))


def test_a_run_is_loaded_and_predicts_images_of_any_kind(run: Path, digits: Dataset, tmp_path: Path) -> None:
    predictor = convmixer.load(run, device="cpu")
    assert (predictor.classes, predictor.info, predictor.name) == (digits.info.classes, digits.info, str(run))
    assert predictor.input == ImageInput(8, 1)
    pixels = digits.splits["test"].images[0]  # (1, 8, 8)
    picture = Image.fromarray(pixels[0].numpy())
    picture.save(tmp_path / "digit.png")
    batch = torch.stack((pixels, pixels))
    given = [
        tmp_path / "digit.png",
        str(tmp_path),
        picture,
        pixels,
        pixels.numpy(),
        pixels[0].numpy(),
        pixels.expand(3, 8, 8),
        pixels[0, :, :, None].expand(8, 8, 3).numpy(),
        batch,
        batch.numpy(),
    ]
    answers = predictor.predict(given, top_k=4)
    assert len(answers) == 12
    logits = torch.from_numpy(predictor.logits(pixels[None].numpy()))
    best = logits.double().softmax(1)[0].topk(4)
    for answer in answers:
        assert answer.classes == tuple(digits.info.classes[i] for i in best.indices)
        assert answer.probabilities == pytest.approx(best.values.tolist(), rel=1e-4)
    assert answers[0].image == answers[1].image == str(tmp_path / "digit.png")
    (alone,) = predictor.predict(picture)
    assert isinstance(alone, Prediction)
    assert len(alone.classes) == 3
    large = picture.resize((80, 64), Image.Resampling.NEAREST)
    assert len(predictor.predict([large, np.asarray(large)], top_k=1)) == 2


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8)), "image 1: is float64"),
        (torch.zeros(8, dtype=torch.uint8), r"image 1: is uint8 of shape \(8,\)"),
        (np.zeros((8, 8, 5), np.uint8), "image 1: has the shape"),
        ("absent.png", "absent.png cannot be read"),
    ],
)
def test_what_is_no_image_is_named(nearest: Predictor, image: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict(nearest, image)


def test_the_few_lines_that_a_reader_tries_first(tmp_path: Path) -> None:
    small = {"dataset": "digits", "dim": 8, "depth": 1, "kernel_size": 3, "epochs": 1, "batch_size": 400}
    summary = convmixer.train(small, tmp_path / "run", artifacts=False)
    test = convmixer.load_dataset("digits").splits["test"]
    evaluation = convmixer.evaluate(tmp_path / "run", "test")
    assert evaluation.figures.accuracy == summary.test_accuracy
    answers = convmixer.load(tmp_path / "run").predict(test.images, top_k=1)
    right = [answer.classes[0] == str(label) for answer, label in zip(answers, test.labels.tolist(), strict=True)]
    assert sum(right) / len(right) == pytest.approx(summary.test_accuracy)
    with pytest.raises(InputError, match="'epoch' is not a field"):
        convmixer.train({"epoch": 1}, tmp_path / "other")


def test_evaluations_are_read_from_the_run_directory(run: Path, digits: Dataset) -> None:
    assert RunDir(run).evaluation("val") is None
    evaluation = evaluate_run(run, "val", dataset=digits)
    write_evaluation(evaluation, pictures=False)
    kept = RunDir(run).evaluation("val")
    assert kept is not None
    assert kept.to_dict() == evaluation.figures.to_dict()
    RunDir(run).write_json("evaluation_val.json", {})
    with pytest.raises(InputError, match="has no accuracy"):
        RunDir(run).evaluation("val")


def test_a_run_is_a_predictor(run: Path, digits: Dataset) -> None:
    predictor: Predictor = TorchPredictor.load(RunDir.existing(run))
    images = digits.splits["test"].images.numpy()
    images = images.copy()
    images.flags.writeable = False  # as those of a memory-mapped file
    logits = predictor.logits(images[:5])
    assert logits.dtype == np.float32
    assert logits.shape == (5, 10)


def test_a_model_in_training_answers_as_in_evaluation(run: Path, digits: Dataset) -> None:
    images = digits.splits["test"].images[:20].numpy()
    predictor = convmixer.load(run, device="cpu", engine="plain")
    expected = predictor.logits(images)
    predictor.deployed.model.train()
    assert np.array_equal(predictor.logits(images), expected)
    assert not any(module.training for module in predictor.deployed.modules())
