"""Distillation: the loss, what the teacher sees, what is refused and recorded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convmixer.data import Dataset
from convmixer.errors import InputError
from convmixer.models import ConvMixer
from convmixer.runs import RunDir
from convmixer.training import train
from convmixer.training.initial import fingerprint
from convmixer.training.step import TrainStep
from convmixer.training.teacher import check_same_teacher, distillation_loss, load_teacher
from tests.helpers.runs import figures, tiny_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "large"
    train(tiny_config(dim=16), out, dataset=digits, artifacts=False)
    return out


def test_the_loss_is_the_divergence_and_its_gradient_that_of_the_paper():
    logits, answers, temperature = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7), 3.0
    student, teacher = (torch.softmax(values / temperature, 1) for values in (logits, answers))
    expected = temperature**2 * (teacher * (teacher / student).log()).sum(1).mean()
    loss = distillation_loss(logits, answers, temperature)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, temperature * (student - teacher) / 5)  # section 2.1, times T²
    assert distillation_loss(answers, answers, temperature).abs() < 1e-5


@pytest.mark.parametrize("mixed", [False, True])
def test_a_weight_of_0_is_training_without_a_teacher(large: Path, digits: Dataset, mixed: bool):
    images, labels = torch.randn(12, 1, 8, 8), torch.arange(12) % 10
    targets = torch.softmax(torch.randn(12, 10), 1) if mixed else labels
    losses = []
    for weight in (None, 0.0, 1.0):
        settings = tiny_config(
            accumulate=2, **({} if weight is None else {"teacher": str(large), "teacher_weight": weight})
        )
        teacher = load_teacher(settings.train, digits.info, CPU)
        torch.manual_seed(0)
        model = ConvMixer(dim=8, depth=1, kernel_size=3, in_channels=1, engine="plain").train()
        step = TrainStep(model, settings.train, CPU, torch.float32, teacher=teacher)
        losses.append((float(step(images, targets)[0]), fingerprint(model.state_dict())))
    assert losses[0] == losses[1]
    assert losses[1][1] != losses[2][1]


def test_the_teacher_answers_as_its_run_does_whatever_the_normalisation(large: Path, digits: Dataset):
    info = dataclasses.replace(digits.info, mean=(0.1,), std=(0.7,))
    teachers = [load_teacher(tiny_config(teacher=str(large)).train, i, CPU) for i in (digits.info, info)]
    pixels, answers = torch.rand(4, 1, 8, 8), []
    for teacher, own in zip(teachers, (digits.info, info), strict=True):
        assert teacher is not None
        answers.append(teacher((pixels - own.mean[0]) / own.std[0]))
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4)
    assert not answers[0].requires_grad


def test_a_run_with_a_teacher_records_it_resumes_exactly_and_only_with_it(large: Path, tmp_path: Path, digits: Dataset):
    config = tiny_config(teacher=str(large), mixup=0.2, schedule="constant", warmup_epochs=0.5)
    assert config.identity_hash() != tiny_config(mixup=0.2, schedule="constant", warmup_epochs=0.5).identity_hash()
    whole = train(config, tmp_path / "whole", dataset=digits, artifacts=False)
    train(config.replace(epochs=1), tmp_path / "parts", dataset=digits, artifacts=False)
    assert figures(train(config, tmp_path / "parts", dataset=digits, artifacts=False, resume=True)) == figures(whole)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    assert fingerprint(weights[0]) == fingerprint(weights[1])
    recorded = json.loads((tmp_path / "whole" / "teacher.json").read_text())
    assert recorded["sha256"] == fingerprint(load_file(large / "model.safetensors"))
    assert recorded["identity"] == RunDir(large).config().identity_hash()
    teacher = load_teacher(config.train, digits.info, CPU)
    assert teacher is not None
    check_same_teacher(RunDir(tmp_path / "whole"), teacher)
    other = dataclasses.replace(teacher, record=dataclasses.replace(teacher.record, sha256="0" * 64))
    with pytest.raises(InputError, match="other weights"):
        check_same_teacher(RunDir(tmp_path / "whole"), other)


def test_what_cannot_teach_is_one_sentence_and_leaves_nothing(large: Path, tmp_path: Path, digits: Dataset):
    infos = {
        "other classes": dataclasses.replace(digits.info, classes=tuple("abcdefghij")),
        "8 pixels": dataclasses.replace(digits.info, image_size=16),
    }
    settings = tiny_config(teacher=str(large)).train
    for words, info in infos.items():
        with pytest.raises(InputError, match=words):
            load_teacher(settings, info, CPU)
    with pytest.raises(InputError) as refused:
        train(tiny_config(teacher=str(tmp_path / "missing")), tmp_path / "run", dataset=digits)
    assert str(refused.value).count("\n") == 0
    assert not (tmp_path / "run").exists()
