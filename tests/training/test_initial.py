"""Starting from trained weights: what is taken over, refused, frozen and recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from convmixer.config import RunConfig
from convmixer.data import Dataset
from convmixer.errors import InputError
from convmixer.models import ConvMixer, create_model
from convmixer.models.transfer import transfer_weights
from convmixer.parts.freezing import frozen_modules
from convmixer.presets import run_config
from convmixer.runs import RunDir
from convmixer.training import train
from convmixer.training.initial import fingerprint
from convmixer.training.optimizers import build_optimizer
from tests.helpers.hub import served
from tests.helpers.runs import tiny_config


def network(**changes: object) -> ConvMixer:
    return ConvMixer(**{"dim": 8, "depth": 3, "kernel_size": 3, "engine": "plain"} | changes)


def test_other_classes_get_a_new_head_and_all_else_is_taken_over():
    old, new = network(n_classes=10), network(n_classes=3)
    head = {name: tensor.clone() for name, tensor in new.head.state_dict().items()}
    assert not transfer_weights(new, old.state_dict()).head_kept
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(new.eval().forward_features(images), old.eval().forward_features(images))
    assert all(torch.equal(tensor, head[name]) for name, tensor in new.head.state_dict().items())


def test_the_head_stays_where_the_classes_are_the_same_and_goes_where_they_are_said_to_differ():
    old = network()
    same, other = network(), network()
    assert transfer_weights(same, old.state_dict()).head_kept
    assert torch.equal(same.head.weight, old.head.weight)
    assert not transfer_weights(other, old.state_dict(), keep_head=False).head_kept
    assert not torch.equal(other.head.weight, old.head.weight)


@pytest.mark.parametrize(("given", "wanted"), [(3, 1), (1, 3)])
def test_grey_images_give_what_three_equal_channels_give(given: int, wanted: int):
    old, new = network(in_channels=given), network(in_channels=wanted)
    transfer_weights(new, old.state_dict())
    grey = torch.randn(4, 1, 8, 8)
    features = [model.eval().forward_features(grey.expand(-1, c, -1, -1)) for model, c in ((old, given), (new, wanted))]
    torch.testing.assert_close(*features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"patch_size": 4}, "stem.0.weight"),
        ({"dim": 16}, "stem.0.weight"),
        ({"kernel_size": 5}, "blocks.0.0.fn.0.weight"),
        ({"depth": 2}, "unexpected"),
        ({"branch": "bottleneck"}, "blocks.0.0.fn"),
        ({"in_channels": 4}, "images of 3 channels, these have 4"),
    ],
)
def test_what_cannot_fit_is_refused_by_name_and_changes_nothing(changes: dict[str, object], named: str):
    model = network(**changes)
    before = fingerprint(model.state_dict())
    with pytest.raises(InputError, match="init_from") as refused:
        transfer_weights(model, network().state_dict())
    assert named in str(refused.value)
    assert fingerprint(model.state_dict()) == before


def test_parts_are_named_as_in_the_help():
    assert frozen_modules("") == ()
    assert frozen_modules("features", 2) == ("stem", "blocks")
    assert frozen_modules("stem, blocks.0-2,blocks.1", 3) == ("stem", "blocks.0", "blocks.1", "blocks.2")
    for wrong in ("stems", "blocks.a", "blocks.2-1", "head,blok"):
        with pytest.raises(InputError, match="freeze"):
            frozen_modules(wrong)
    with pytest.raises(InputError, match="0 to 2"):
        network().freeze("blocks.3")


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_frozen_parts_do_not_change_in_a_step(engine: str):
    model = network(engine=engine).freeze("stem,blocks.0").train()
    settings = tiny_config(optimizer="muon").train
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = build_optimizer(model, settings)
    model(torch.randn(8, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(name.startswith(("stem.", "blocks.0.")) for name in changed)
    assert {"blocks.1.1.weight", "blocks.2.3.running_mean", "head.weight"} <= changed
    assert all(p.requires_grad for p in model.freeze("").parameters())


def test_the_backbone_has_a_learning_rate_of_its_own():
    model = network()
    settings = tiny_config(lr=0.5, backbone_lr_scale=0.1, decay_norms=False).train
    rates = {id(p): g["lr"] for g in build_optimizer(model, settings).param_groups for p in g["params"]}
    assert {rates[id(p)] for p in model.head.parameters()} == {0.5}
    assert {rates[id(p)] for part in (model.stem, model.blocks) for p in part.parameters()} == {0.05}
    assert len(rates) == len(list(model.parameters()))


def test_nothing_left_to_train_is_said():
    with pytest.raises(InputError, match="nothing is left"):
        build_optimizer(network().freeze("features,head"), tiny_config().train)


def test_new_fields_at_their_defaults_leave_the_names_of_old_runs():
    config = RunConfig()
    assert config.identity_hash() != config.replace(freeze="stem").identity_hash()
    assert config.identity_hash() == config.replace(freeze="", backbone_lr_scale=1.0).identity_hash()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    out = tmp_path_factory.mktemp("initial") / "backbone"
    train(tiny_config(), out, dataset=digits, artifacts=False)
    return out


def test_a_run_that_starts_from_another_records_it_and_resumes_without_it(
    backbone: Path, tmp_path: Path, digits: Dataset
):
    config = run_config(
        init_from=str(backbone), dataset="digits", epochs=2, batch_size=400, freeze="stem", device="cpu"
    )
    assert config.architecture == RunDir(backbone).config().architecture
    summary = train(config, tmp_path / "run", dataset=digits, artifacts=False)
    identity = RunDir(backbone).config().identity_hash()
    assert summary.initial_weights is not None
    assert identity in summary.initial_weights
    assert "all weights" in summary.initial_weights  # the same classes: the head as well
    recorded = json.loads((tmp_path / "run" / "init.json").read_text())
    assert recorded["identity"] == identity
    assert recorded["sha256"] == fingerprint(load_file(backbone / "model.safetensors"))
    kept, start = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", backbone))
    assert torch.equal(kept["stem.0.weight"], start["stem.0.weight"])
    assert not torch.equal(kept["head.weight"], start["head.weight"])
    weights = [tensor for name, tensor in kept.items() if "running" not in name and "num_batches" not in name]
    assert summary.parameters == sum(weight.numel() for weight in weights)


def test_other_sources_that_are_no_weights_are_one_sentence(tmp_path: Path, backbone: Path, digits: Dataset):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    for source in ("missing", "empty", "text.safetensors", "other.safetensors"):
        with pytest.raises(InputError) as refused:
            train(tiny_config(init_from=str(tmp_path / source)), tmp_path / "run", dataset=digits)
        assert str(refused.value).count("\n") == 0
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_hub(tmp_path: Path):
    pytest.importorskip("huggingface_hub")  # the extra "hub"
    model = create_model("convmixer", dim=8, depth=1, kernel_size=3)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    command = [sys.executable, "-m", "convmixer", "train", "--dataset", "digits", "--dim", "8", "--depth", "1"]
    command += ["--kernel-size", "3", "--epochs", "1", "--model", "convmixer", "--json"]
    with served() as hub:
        hub.repositories["somebody/small"] = {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()}
        where = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hub")}
        run = subprocess.run(
            [*command, "--init-from", "hub:somebody/small", "--out", str(tmp_path / "run")],
            env=os.environ | where,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "hub:somebody/small" in json.loads(run.stdout)["initial_weights"]
        none = subprocess.run(
            [*command, "--init-from", "hub:nobody/nothing", "--out", str(tmp_path / "none")],
            env=os.environ | where,
            capture_output=True,
            text=True,
        )
        assert none.returncode == 2
        assert "nobody/nothing" in none.stderr


def test_timm_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digits: Dataset):
    class Timm:
        @staticmethod
        def create_model(name: str, pretrained: bool) -> ConvMixer:
            assert pretrained
            return {"convmixer_tiny": network(depth=1, in_channels=3, n_classes=1000)}[name]

    monkeypatch.setitem(sys.modules, "timm", Timm)
    summary = train(tiny_config(init_from="timm:convmixer_tiny"), tmp_path / "run", dataset=digits, artifacts=False)
    assert summary.initial_weights is not None
    assert "a new head, the patch embedding adapted from 3 to 1 channels" in summary.initial_weights
    with pytest.raises(InputError, match="timm has no weights of 'convmixer_huge'"):
        train(tiny_config(init_from="timm:convmixer_huge"), tmp_path / "other", dataset=digits)
