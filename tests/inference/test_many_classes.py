"""A thousand classes: what an evaluation writes stays small and takes seconds."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from convmixer.data import Split
from convmixer.inference.evaluate import RunEvaluation, write_evaluation
from convmixer.inference.gallery import Gallery
from convmixer.utils.metrics import Evaluation, evaluate_predictions
from convmixer.utils.visualization import confusion_matrix


@pytest.mark.slow
def test_a_thousand_classes(tmp_path: Path) -> None:
    k, n = 1000, 2000
    random, names = np.random.default_rng(0), [f"{i:04}" for i in range(k)]
    labels = torch.from_numpy(random.integers(0, k, n))
    probabilities = torch.from_numpy(random.normal(size=(n, k))).softmax(1)
    images = torch.from_numpy(random.integers(0, 256, (n, 3, 16, 16), dtype=np.uint8))
    begun = time.process_time()
    figures = evaluate_predictions(probabilities.numpy(), labels.numpy(), names)
    gallery = Gallery.choose(Split(images, labels), probabilities, names)
    evaluation = RunEvaluation(str(tmp_path), "test", "x", n, 1.0, "cpu", "float32", figures, gallery=gallery)
    json_file, *pictures = write_evaluation(evaluation)
    assert time.process_time() - begun < 10  # over 60 with a label for each class
    assert json_file.stat().st_size < 3_000_000
    assert all(picture.stat().st_size < 500_000 for picture in pictures)
    content = json.loads(json_file.read_text())
    again = Evaluation.from_dict({name: content[name] for name in vars(figures)})
    assert (again.confusion == figures.confusion).all()
    assert again.per_class == figures.per_class


@pytest.mark.parametrize(("classes", "dense"), [(2, True), (100, True), (101, False)])
def test_small_matrices_are_written_whole(classes: int, dense: bool) -> None:
    labels = np.arange(classes).repeat(2)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), len(labels))
    figures = evaluate_predictions(probabilities, labels, [str(i) for i in range(classes)])
    values = json.loads(json.dumps(figures.to_dict()))
    assert isinstance(values["confusion"], list) is dense
    again = Evaluation.from_dict(values)
    assert again.confusion.dtype == figures.confusion.dtype
    assert (again.confusion == figures.confusion).all()
    if not dense:
        assert sum(values["confusion"]["images"]) == len(labels)


@pytest.mark.parametrize(("classes", "labels"), [(100, 100), (101, 0)])
def test_axes_name_as_many_classes_as_can_be_read(classes: int, labels: int) -> None:
    axes = confusion_matrix(np.eye(classes, dtype=int), [str(i) for i in range(classes)]).axes[0]
    assert len([label for label in axes.get_xticklabels() if label.get_text()]) == labels
    assert ("101 classes" in axes.get_xlabel()) == (labels == 0)
