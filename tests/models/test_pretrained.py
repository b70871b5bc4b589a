"""Models as folders that Hugging Face and timm load, and the paper's layout written exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import convmixer
from convmixer.config import ModelConfig
from convmixer.errors import InputError
from convmixer.manifest import is_run
from convmixer.models import ConvMixer, build_model, create_model, pretrained
from convmixer.models.pretrained import from_pretrained
from convmixer.models.timm_models import register_with_timm
from convmixer.models.weights import to_own_layout, to_papers_layout
from convmixer.presets import MODELS, ModelPreset
from tests.helpers.hub import served
from tests.helpers.networks import paper_network


def disturbed(model: nn.Module) -> nn.Module:
    """With values in the place of every 0 and 1, so that no part is the identity."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return model.eval()


@settings(max_examples=12, deadline=None)
@given(
    dim=st.integers(1, 12),
    depth=st.integers(1, 12),
    kernel_size=st.sampled_from((1, 3, 5)),
    patch_size=st.integers(1, 3),
    n_classes=st.integers(1, 12),
    activation=st.sampled_from(("gelu", "relu")),
)
def test_the_papers_layout_there_and_back(
    dim: int, depth: int, kernel_size: int, patch_size: int, n_classes: int, activation: Any
) -> None:
    config = ModelConfig(dim=dim, depth=depth, kernel_size=kernel_size, patch_size=patch_size, activation=activation)
    model = disturbed(build_model(config, n_classes, 3, "plain"))
    own = model.state_dict()
    written = to_papers_layout(own)
    paper = paper_network(
        dim, depth, kernel_size, patch_size, n_classes, {"gelu": nn.GELU, "relu": nn.ReLU}[activation]
    ).eval()
    paper.load_state_dict(written)  # strict: its own names, all of them
    assert list(written) == list(paper.state_dict())
    back = to_own_layout(written)
    assert list(back) == list(own)
    assert all(back[name] is tensor for name, tensor in own.items())
    images = torch.randn(2, 3, 6, 6)
    assert torch.equal(paper(images), model(images))


@pytest.mark.parametrize("name", ["convmixer_rh", "convmixer_lc", "convmixer_bn"])
def test_what_the_paper_does_not_have_is_not_written_in_its_layout(name: str) -> None:
    model = create_model(name, dim=8, depth=1, **({"activation": "relu"} if name == "convmixer_lc" else {}))
    with pytest.raises(InputError, match="has no place in the paper's layout"):
        to_papers_layout(model.state_dict())


@pytest.mark.parametrize(
    ("name", "arguments", "architecture"),
    [
        ("convmixer", {"dim": 8, "depth": 2}, "convmixer_lab"),
        (
            "convmixer_rh",
            {"dim": 8, "depth": 2, "kernel_size": (3, 5), "in_chans": 1, "num_classes": 3},
            "convmixer_lab",
        ),
        ("convmixer_bn", {"dim": 8, "depth": 1, "drop_path_rate": 0.1}, "convmixer_lab"),
        ("convmixer", {"dim": 8, "depth": 2, "num_classes": 0}, "convmixer_lab"),
    ],
)
def test_a_folder_keeps_the_model(tmp_path: Path, name: str, arguments: dict[str, Any], architecture: str) -> None:
    model = disturbed(create_model(name, **arguments))
    assert isinstance(model, ConvMixer)
    model.save_pretrained(tmp_path / "folder")
    model.save_pretrained(tmp_path / "folder")  # again
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == (architecture, model.n_classes)
    assert config["model_args"].get("in_chans", 3) == arguments.get("in_chans", 3)
    assert load_file(tmp_path / "folder" / "model.safetensors").keys() == model.state_dict().keys()
    back = ConvMixer.from_pretrained(tmp_path / "folder", engine="plain")
    assert (back.config, back.n_classes, back.training) == (model.config, model.n_classes, False)
    images = torch.randn(2, arguments.get("in_chans", 3), 8, 8)
    model.set_engine("plain")
    assert torch.equal(back(images), model(images))
    assert back.pretrained_cfg["input_size"] == model.pretrained_cfg["input_size"]
    assert not is_run(tmp_path / "folder", ["config.json", "model.safetensors"])


def test_timms_architectures_go_by_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        model = create_model("convmixer_768_32", num_classes=7, in_chans=1, drop_rate=0.5)
        other = create_model("convmixer_768_32", num_classes=7, depth=31)
    config = pretrained.hub_config(model)
    assert config["architecture"] == "convmixer_768_32"
    assert config["model_args"] == {"in_chans": 1}  # timm's functions take no sizes
    assert pretrained.hub_config(other)["architecture"] == "convmixer_lab"


def test_timms_own_config_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ModelConfig(dim=8, depth=1, patch_size=7, kernel_size=7)
    monkeypatch.setitem(MODELS, "convmixer_768_32", ModelPreset(small, image_size=224))
    model = disturbed(build_model(small, 5, 3, "plain"))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    theirs = {"num_classes": 5, "input_size": [3, 224, 224], "mean": [0.5, 0.5, 0.5], "tag": "x", "pool_size": None}
    config = {"architecture": "convmixer_768_32", "num_classes": 5, "num_features": 8, "pretrained_cfg": theirs}
    (tmp_path / "config.json").write_text(json.dumps(config | {"label_names": list("abcde")}))
    back = from_pretrained(tmp_path, engine="plain")
    assert back.default_cfg["mean"] == (0.5, 0.5, 0.5)
    assert back.default_cfg["label_names"] == tuple("abcde")
    images = torch.randn(1, 3, 14, 14)
    assert torch.equal(back(images), model(images))
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "resnet18"}))
    with pytest.raises(InputError, match="'resnet18' is no ConvMixer"):
        from_pretrained(tmp_path)


def test_what_is_no_such_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("convmixer", dim=8, depth=1)
    model.save_pretrained(tmp_path / "folder")
    file = tmp_path / "folder" / "config.json"
    config = json.loads(file.read_text())
    huge = config["convmixer"]["architecture"] | {"dim": 10**9}
    for changed, said in (
        (config | {"convmixer": {"architecture": huge}}, "do not fit the file's own description"),
        (config | {"num_classes": 10**12}, "do not fit the file's own description"),
        (config | {"num_classes": "ten"}, "num_classes: expected int"),
        (config | {"convmixer": {"architecture": {"dim": 0}}}, "dim"),
        ([], "holds no model"),
        (["pretrained_cfg"], "expected an object"),
    ):
        file.write_text(json.dumps(changed))
        with pytest.raises(InputError, match=said) as caught:
            from_pretrained(tmp_path / "folder")
        assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(InputError, match="holds no model"):
        from_pretrained(tmp_path / "folder")
    with pytest.raises(InputError, match="neither a folder nor OWNER/REPOSITORY"):
        from_pretrained("nothing")
    (tmp_path / "folder" / "mine.txt").write_text("")
    with pytest.raises(InputError, match=r"holds other things \(mine.txt\)"):
        model.save_pretrained(tmp_path / "folder")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json of something else"):
        model.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="is a file"):
        model.save_pretrained(tmp_path / "other" / "config.json")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for work in (lambda: from_pretrained("a/b"), lambda: model.push_to_hub("a/b")):
        with pytest.raises(InputError, match=r"pip install 'convmixer-lab\[hub\]'"):
            work()


def test_uploading_makes_a_repository_and_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Api:
        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, name: str, **options: Any) -> Any:
            asked.append((name, options))
            if name == "no/way":
                raise OSError("401 Unauthorized\nlong advice")
            return types.SimpleNamespace(repo_id=f"me/{name}", __str__=lambda self: "x")

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
            asked.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir()), commit_message))

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=Api))
    model = create_model("convmixer", dim=8, depth=1)
    model.push_to_hub("small", private=True)
    assert asked == [
        ("small", {"private": True, "exist_ok": True}),
        ("me/small", ["config.json", "model.safetensors"], "Upload a ConvMixer"),
    ]
    with pytest.raises(InputError, match=r"no/way: cannot be uploaded to the hub \(401 Unauthorized\)\.$"):
        model.push_to_hub("no/way")


@pytest.mark.slow
def test_there_and_back_by_the_hub(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")  # the extra "hub"
    create_model("convmixer", dim=8, depth=1).save_pretrained(tmp_path / "folder")
    code = """if True:
        import sys
        from convmixer.errors import InputError
        from convmixer.models import ConvMixer
        model = ConvMixer.from_pretrained(sys.argv[1])
        print(model.push_to_hub("me/small", private=True))
        assert str(ConvMixer.from_pretrained("me/small")) == str(model)
        try:
            ConvMixer.from_pretrained("me/nothing")
        except InputError as error:
            print(error)
    """
    with served() as hub:
        where = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_made"}
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "folder"], env=os.environ | where, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{hub.address}/me/small\nme/nothing: has no config.json on the hub (")
        assert hub.private == {"me/small": True}
        assert hub.repositories["me/small"] == {
            name: (tmp_path / "folder" / name).read_bytes() for name in ("config.json", "model.safetensors")
        }


def test_timm_gets_our_networks_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entries: dict[str, Any] = {}

    def build(cls: Any, variant: str, pretrained: bool, **arguments: Any) -> Any:
        for name in arguments.pop("kwargs_filter"):
            arguments.pop(name, None)
        model = cls(**arguments)
        model.pretrained_cfg = {"tag": variant, "pretrained": pretrained}
        return model

    models = types.SimpleNamespace(
        is_model=lambda name: name in entries,
        register_model=lambda function: entries.update({function.__name__: function}),
        generate_default_cfgs=dict,
        build_model_with_cfg=build,
    )
    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(models=models))
    monkeypatch.setitem(sys.modules, "timm.models", models)
    assert convmixer.register_with_timm() == register_with_timm() == list(entries)
    assert "convmixer_768_32" not in entries
    model = entries["convmixer_lab"](dim=8, depth=2, kernel_size=[3, 5], num_classes=3, in_chans=1, global_pool="avg")
    assert isinstance(model, ConvMixer)
    assert (model.config.kernel_size, model.num_classes) == ((3, 5), 3)
    assert model.default_cfg == {"tag": "convmixer_lab", "pretrained": False}
    assert entries["convmixer_rh"](dim=8).config.head == "rh"
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(InputError, match="timm: is not installed"):
        register_with_timm()


@pytest.mark.slow
def test_timm_itself_loads_the_folder_and_we_load_timms(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")  # the extra "hub", with a torchvision that suits this PyTorch
    register_with_timm()
    small: dict[str, Any] = {"dim": 8, "depth": 2, "kernel_size": (3, 5), "in_chans": 1, "num_classes": 3}
    for name, arguments in [("convmixer_1024_20_ks9_p14", {"num_classes": 7}), ("convmixer_rh", small)]:
        model = create_model(name, engine="plain", **arguments).eval()
        model.save_pretrained(tmp_path / name)
        theirs = timm.create_model(f"local-dir:{tmp_path / name}", pretrained=True).eval()
        assert isinstance(theirs, ConvMixer) == (name == "convmixer_rh")
        images = torch.randn(1, arguments.get("in_chans", 3), 28, 28)
        assert torch.equal(theirs(images), model(images))
    theirs = timm.create_model("convmixer_1024_20_ks9_p14", num_classes=5).eval()
    timm.models.save_for_hf(theirs, tmp_path / "theirs", safe_serialization=True)
    images = torch.randn(1, 3, 28, 28)
    assert torch.equal(from_pretrained(tmp_path / "theirs", engine="plain")(images), theirs(images))
