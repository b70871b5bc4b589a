"""A run as a folder with a model card."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from convmixer.data import Dataset
from convmixer.deploy import formats, hub
from convmixer.deploy.hub import push_to_hub, save_pretrained
from convmixer.deploy.source import Source
from convmixer.inference.model_file import open_model_file
from convmixer.inference.program_predictor import answers_of
from convmixer.models import ConvMixer
from convmixer.presets import run_config
from convmixer.runs import RunDir
from convmixer.runs.listing import find_runs
from convmixer.runs.verify import verify
from convmixer.training import train
from convmixer.utils.formatting import accuracy
from tests.helpers.cli import Run
from tests.helpers.networks import paper_network
from tests.helpers.runs import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    out = tmp_path_factory.mktemp("hub") / "my *run*"
    train(tiny_config(epochs=1, batch_size=100, lr=0.02), out, dataset=digits, artifacts=False)
    return out


def test_a_folder_answers_as_the_run_does(run: Path, tmp_path: Path, digits: Dataset) -> None:
    saved = save_pretrained(run, tmp_path / "folder")
    assert sorted(path.name for path in saved.folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (saved.check.same_answers, saved.check.images) == (359, 359)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    model = ConvMixer.from_pretrained(saved.folder, engine="plain")
    opened = open_model_file(saved.folder / "model.safetensors")  # names and normalisation are in it as well
    info = RunDir(run).dataset()
    assert opened.classes == model.default_cfg["label_names"] == info.classes
    images = digits.splits["test"].images[:5]
    normalised = (images / 255 - torch.tensor(info.mean)[:, None, None]) / torch.tensor(info.std)[:, None, None]
    with torch.inference_mode():
        assert torch.allclose(model(normalised), torch.from_numpy(opened.logits(images.numpy())), atol=1e-5)
    config = json.loads((saved.folder / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [1, 8, 8]
    assert config["convmixer"]["origin"]["identity"] == RunDir(run).config().identity_hash()
    save_pretrained(run, tmp_path / "folder")  # replaces it


def test_the_card_says_what_the_records_say(run: Path, tmp_path: Path) -> None:
    save_pretrained(run, tmp_path / "folder")
    text, summary = (tmp_path / "folder" / "README.md").read_text(), RunDir(run).summary()
    assert summary is not None
    _, front, body = text.split("---\n", 2)
    values = yaml.safe_load(front)
    assert "license" not in values  # whoever publishes it says
    (result,) = values["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == round(summary.test_accuracy, 4)
    assert body.startswith("\n# my \\*run\\*\n")
    for said in (
        accuracy(summary.test_accuracy, 359),
        "1,293 train, 145 val, 359 test",
        RunDir(run).dataset().fingerprint,
        "seed 0: intervals cover the choice of images, not that of the seed",
        "convmixer.register_with_timm()",
        "Seed of the split: 0",
        "## Intended use",
        "## Licence\n\nNot chosen.",
        "arXiv:2201.09792",
    ):
        assert said in body


def test_a_run_starts_from_a_folder_and_takes_it_for_no_run(run: Path, tmp_path: Path, digits: Dataset) -> None:
    study = tmp_path / "study"
    study.mkdir()
    folder = save_pretrained(run, study / "folder").folder
    config = run_config(init_from=str(folder), dataset="digits", epochs=1, batch_size=400, device="cpu")
    assert config.architecture == RunDir(run).config().architecture
    summary = train(config, study / "tuned", dataset=digits, artifacts=False)
    assert summary.initial_weights is not None
    assert "all weights" in summary.initial_weights  # the classes are the same
    assert [path.name for path in find_runs(study)] == ["tuned"]
    assert [found.folder.name for found in verify(study)] == ["tuned"]


def test_a_card_stays_as_its_owner_completed_it_while_the_weights_do(run: Path, tmp_path: Path) -> None:
    card = save_pretrained(run, tmp_path / "folder").folder / "README.md"
    made = card.read_text()
    card.write_text(made.replace("Not chosen.", "MIT."))
    save_pretrained(run, tmp_path / "folder")
    assert "## Licence\n\nMIT." in card.read_text()
    card.write_text("about another model")
    save_pretrained(run, tmp_path / "folder")
    assert card.read_text() == made


def test_a_folder_that_answers_differently_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = formats.FORMATS["safetensors"].write
    wrong = replace(
        formats.FORMATS["safetensors"],
        write=lambda source, path: write(Source(source.info, answers_of(source.info)), path),
    )
    monkeypatch.setitem(formats.FORMATS, "safetensors", wrong)
    with pytest.raises(RuntimeError, match="answers differently"):
        save_pretrained(run, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_the_command(run: Path, convmixer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "push_folder", lambda folder, name, **options: f"hub/{name}")
    monkeypatch.setattr("convmixer.models.pretrained.push_folder", lambda folder, name, **options: f"hub/{name}")
    status, out, err = convmixer("export", run, "--format", "hub", "--out", "folder", "--push", "me/small")
    assert status == 0, err
    assert "folder: config.json, model.safetensors (" in out
    assert "Uploaded to hub/me/small" in out
    status, out, _ = convmixer("export", run, "--format", "hub", "--out", "folder", "--json")
    shown = json.loads(out)
    assert (shown["architecture"], shown["address"]) == ("convmixer_lab", None)
    assert push_to_hub(run, "me/small") == "hub/me/small"
    status, out, err = convmixer("export", run, "--format", "paper", "--out", "p.safetensors")
    assert status == 0, err
    config = RunDir(run).config().architecture
    network = paper_network(config.dim, config.depth, config.kernel_size, config.patch_size, 10)
    network[0] = torch.nn.Conv2d(1, config.dim, config.patch_size, config.patch_size)
    network.load_state_dict(load_file("p.safetensors"))
    status, out, _ = convmixer("evaluate", "p.safetensors", "--data", run, "--json")
    assert json.loads(out)["accuracy"] == RunDir(run).summary().test_accuracy


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--push", "me/small"), "add --format hub"),
        (("--format", "hub", "--out", "nowhere/folder"), "nowhere is no folder"),
        (("--format", "hub", "--out", "full"), "holds other things (mine.txt)"),
        (("--format", "hub", "--out", "full/mine.txt"), "is a file"),
    ],
)
def test_bad_input(run: Path, convmixer: Run, options: tuple[str, ...], said: str) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("")
    status, _, err = convmixer("export", run, *options)
    assert (status, said in err, "Traceback" in err) == (2, True, False), err
    assert [path.name for path in Path("full").iterdir()] == ["mine.txt"]


def test_without_the_extra_only_uploading_is_refused(run: Path, convmixer: Run, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    status, _, err = convmixer("export", run, "--format", "hub", "--out", "folder", "--push", "me/small")
    assert status == 2
    assert "uploading needs huggingface-hub" in err
    assert Path("folder/README.md").is_file()
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace())
