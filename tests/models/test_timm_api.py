"""What timm's users expect of a model, and the choice of the engine for all models."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import convmixer
from convmixer.errors import InputError
from convmixer.models import create_model

SMALL: dict[str, Any] = {"dim": 8, "depth": 3, "kernel_size": 3}


def test_timms_names_of_arguments() -> None:
    theirs = create_model("convmixer", num_classes=7, in_chans=1, drop_rate=0.1, drop_path_rate=0.2, **SMALL)
    ours = create_model("convmixer", n_classes=7, in_channels=1, dropout=0.1, drop_path=0.2, **SMALL)
    assert str(theirs) == str(ours)
    assert (theirs.num_classes, theirs.num_features) == (7, 8)
    with pytest.raises(InputError, match="n_classes is given twice"):
        create_model("convmixer", num_classes=7, n_classes=7)
    with pytest.raises(InputError, match="did you mean 'num_classes'"):
        create_model("convmixer", num_clases=7)
    assert create_model("convmixer", pretrained=False, **SMALL).num_features == 8
    with pytest.raises(InputError, match=r"`init_from` timm:NAME|init_from timm:NAME"):
        create_model("convmixer", pretrained=True)
    with pytest.raises(InputError, match="forward_intermediates"):
        create_model("convmixer", features_only=True)
    with pytest.raises(InputError) as caught:
        create_model("convmixer", zzz=1)
    assert {"n_classes", "num_classes"} <= set(str(caught.value).replace(",", "").rstrip(".").split())


def test_default_cfg_describes_the_preset() -> None:
    cfg = create_model("convmixer_768_32", dim=8, depth=1).default_cfg
    assert cfg["architecture"] == "convmixer_768_32"
    assert (cfg["input_size"], cfg["num_classes"]) == ((3, 224, 224), 1000)
    assert cfg["mean"] == (0.485, 0.456, 0.406)
    assert create_model("convmixer", **SMALL).default_cfg["std"] == (0.2470, 0.2435, 0.2616)
    assert create_model("convmixer", **SMALL).pretrained_cfg["architecture"] == "convmixer"
    info = create_model("convmixer_768_32", dim=8, depth=2).feature_info
    assert info[1] == {"num_chs": 8, "reduction": 7, "module": "blocks.1"}
    assert "mean" not in create_model("convmixer", in_channels=1, **SMALL).default_cfg


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_intermediates_are_what_the_blocks_give(engine: str) -> None:
    model = create_model("convmixer", engine=engine, **SMALL).eval()
    x = torch.randn(2, 3, 8, 8)
    expected, maps = [], model.stem(x)
    for block in model.blocks:
        maps = block(maps)
        expected.append(maps)
    last, every = model.forward_intermediates(x)
    assert torch.equal(last, expected[-1])
    assert all(torch.equal(a, b) for a, b in zip(every, expected, strict=True))
    assert torch.equal(model.forward_intermediates(x, [-1, 0], intermediates_only=True)[0], expected[0])
    assert len(model.forward_intermediates(x, 2, intermediates_only=True)) == 2
    last, some = model.forward_intermediates(x, [0], stop_early=True)
    assert torch.equal(last, expected[0])
    assert len(some) == 1
    for wrong in ([3], [-4], 4):
        with pytest.raises(InputError, match="there are 3"):
            model.forward_intermediates(x, wrong)


def test_reset_classifier_may_change_the_pooling() -> None:
    model = create_model("convmixer", **SMALL).eval()
    x = torch.randn(2, 3, 8, 8)
    model.reset_classifier(0, "max")
    torch.testing.assert_close(model(x), model.forward_features(x).amax((2, 3)))
    with pytest.raises(InputError, match="global_pool: 'agv' is unknown; did you mean 'avg'"):
        model.reset_classifier(0, "agv")


def test_groups_cover_stem_and_blocks() -> None:
    import re

    model = create_model("convmixer", **SMALL)
    patterns = model.group_matcher().values()
    outside = {name for name, _ in model.named_parameters() if not any(re.match(p, name) for p in patterns)}
    assert outside == {"head.weight", "head.bias"}
    assert isinstance(model.get_classifier(), nn.Linear)


def test_auto_is_turned_off_for_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        convmixer.set_default_engine("plain")
        assert create_model("convmixer", **SMALL).engine == "plain"
        assert create_model("convmixer", engine="fast", **SMALL).engine == "fast"
        with pytest.raises(InputError, match="engine: 'plian' is unknown"):
            convmixer.set_default_engine("plian")
    finally:
        convmixer.set_default_engine(None)
    assert create_model("convmixer", **SMALL).engine == "auto"
    monkeypatch.setenv("CONVMIXER_ENGINE", "fast")
    assert create_model("convmixer", **SMALL).engine == "fast"
    monkeypatch.setenv("CONVMIXER_ENGINE", "quick")
    with pytest.raises(InputError, match="CONVMIXER_ENGINE: 'quick' is unknown"):
        create_model("convmixer", **SMALL)


def test_names_of_parts_need_no_torch() -> None:
    code = "import sys, convmixer.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
