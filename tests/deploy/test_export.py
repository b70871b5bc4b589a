"""A model file answers as the model it was made from, needs nothing of this package, and is there only if it does."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convmixer.config import ModelConfig
from convmixer.data import Dataset
from convmixer.deploy import formats
from convmixer.deploy.check import BATCHES, CheckImages, compare, made_images
from convmixer.deploy.export import export_run, write_checked
from convmixer.deploy.formats import FORMATS, OPSET, describe_onnx, onnx_graph, program, save_openvino
from convmixer.deploy.source import Source
from convmixer.errors import InputError
from convmixer.inference.model_file import ModelInfo, Origin, open_model_file
from convmixer.inference.program_predictor import answers_of
from convmixer.inference.torch_predictor import load
from convmixer.models import ConvMixer
from convmixer.parts.branches import BRANCHES, Branch
from convmixer.parts.heads import HEADS
from convmixer.training import train
from tests.helpers.cli import Run
from tests.helpers.processes import without_torch
from tests.helpers.runs import tiny_config

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ORIGIN = Origin(
    run="made", identity="0", dataset="x", fingerprint="", weights_sha256="", epoch=1, test_accuracy=None, commit=None
)


def made_source(channels: int = 3, size: int = 12, **architecture: object) -> Source:
    """A network of random weights and statistics, so that no part of it is the identity."""
    config = ModelConfig(**{"dim": 8, "depth": 2, "kernel_size": (3, 5), "patch_size": 2, **architecture})
    info = ModelInfo(
        classes=("cat", "dog", "ox"),
        image_size=size,
        channels=channels,
        resize="shorter side, bicubic, centre crop",
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.2, 0.3, 0.25)[:channels],
        architecture=config,
        origin=ORIGIN,
    )
    answers = answers_of(info)
    for module in answers.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            for values, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight, 0.5)):
                values.data.uniform_(low, low + 1)
    return Source(info, answers)


def made(source: Source, count: int = 40) -> CheckImages:
    return CheckImages("made", made_images(source.info.input, count))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    out = tmp_path_factory.mktemp("export") / "my-run"
    train(tiny_config(epochs=1, batch_size=100, lr=0.02), out, dataset=digits, artifacts=False)
    return out


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_and_branch_is_a_program_of_pytorchs_own_operators(head: str, branch: str) -> None:
    source = made_source(head=head, branch=branch, activation="relu" if head == "lc" else "gelu")
    network = source.answers.deployed.model
    assert isinstance(network, ConvMixer)
    network.set_engine("fast")
    exported = program(source).module()
    network.set_engine("plain")
    for count in BATCHES:
        images = torch.from_numpy(made_images(source.info.input, count))
        for found, expected in zip(exported(images), source.answers(images), strict=True):
            assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("head", "branch", "channels"), [("linear", "depthwise", 3), ("rh", "bottleneck", 1)])
def test_onnx_has_standard_operators_and_answers_alike(tmp_path: Path, head: str, branch: str, channels: int) -> None:
    source, file = made_source(channels, 9, head=head, branch=branch), tmp_path / "m.onnx"
    FORMATS["onnx"].write(source, file)
    graph = onnx.load(file)
    onnx.checker.check_model(graph, full_check=True)
    assert [(item.domain, item.version) for item in graph.opset_import] == [("", OPSET)]
    assert {node.domain for node in graph.graph.node} == {""}
    (given,) = graph.graph.input
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert given.type.tensor_type.shape.dim[0].dim_param == "batch"
    opened = open_model_file(file, threads=1)
    assert opened.info == replace(source.info, opset=OPSET)
    found = compare(source.predictor(), opened, made(source))
    assert found.equal
    assert found.largest_difference < 1e-5
    probabilities = onnxruntime.InferenceSession(file).run(["probabilities"], {"images": made(source).images})[0]
    assert np.allclose(probabilities.sum(1), 1)


@pytest.mark.slow
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_and_branch_answers_alike_elsewhere(tmp_path: Path, head: str, branch: str) -> None:
    source, file = made_source(head=head, branch=branch), tmp_path / "m.onnx"
    FORMATS["onnx"].write(source, file)
    assert compare(source.predictor(), open_model_file(file), made(source)).equal
    openvino = pytest.importorskip("openvino")
    file = tmp_path / "m.xml"
    save_openvino(openvino.Core().read_model(tmp_path / "m.onnx"), source.info, file)
    assert compare(source.predictor(), open_model_file(file), made(source)).equal


@pytest.mark.parametrize("kind", ["torch-export", "safetensors"])
def test_torchs_own_formats_keep_every_bit(run: Path, tmp_path: Path, kind: str) -> None:
    made = export_run(run, kind, tmp_path / f"m{FORMATS[kind].suffix}")
    assert made.check.largest_difference < 1e-6
    assert made.check.same_answers == made.check.images == 359
    assert made.check.accuracy == made.info.origin.test_accuracy
    images = made_images(made.info.input, 5)
    opened = open_model_file(made.file, trusted=True)
    assert np.allclose(opened.logits(images), load(run, device="cpu").logits(images), atol=1e-4)
    assert stat.S_IMODE(made.file.stat().st_mode) == stat.S_IMODE((run / "config.json").stat().st_mode)


def test_a_file_says_what_it_is(run: Path, tmp_path: Path) -> None:
    made = export_run(run, "safetensors", tmp_path / "m.safetensors")
    info, origin = made.info, made.info.origin
    assert (info.classes, info.image_size, info.channels) == (tuple("0123456789"), 8, 1)
    assert (origin.run, origin.dataset, origin.epoch) == ("my-run", "digits", 1)
    assert ModelInfo.from_json(info.to_json(), "x") == info
    assert made.to_dict()["check"]["what"] == "the test images of digits"


def test_a_file_that_answers_differently_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(source: Source, path: Path) -> None:
        source = Source(source.info, answers_of(source.info))  # other weights
        write(source, path)

    write, kept = FORMATS["safetensors"].write, tmp_path / "m.safetensors"
    kept.write_text("what was there before")
    monkeypatch.setitem(formats.FORMATS, "safetensors", replace(FORMATS["safetensors"], write=wrong))
    with pytest.raises(RuntimeError, match="answers differently"):
        export_run(run, "safetensors", kept)
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]
    assert kept.read_text() == "what was there before"


def test_what_lies_beside_a_file_comes_and_goes_with_it(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("main")
        path.with_suffix(".bin").write_text("beside")

    class Opened:
        info = runtime = None

    file, monkeypatch = tmp_path / "m.xml", pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr("convmixer.deploy.export.open_model_file", lambda path, trusted: Opened())
        assert write_checked(file, FORMATS["openvino"], write, lambda opened: "checked") == (10, "checked")
        assert {part.name for part in tmp_path.iterdir()} == {"m.xml", "m.bin"}


def test_a_network_with_operators_of_ones_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    @torch.library.custom_op("convmixer_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    twice.register_fake(lambda x: torch.empty_like(x))

    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            doubled: torch.Tensor = twice(x)
            return doubled

    monkeypatch.setitem(BRANCHES, "twice", Branch(lambda block: Twice()))
    with pytest.raises(InputError, match=r"operators that only this machine has \(convmixer_test.twice"):
        program(made_source(branch="twice"))


def test_a_missing_extra_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"--format onnx needs onnxscript; pip install 'convmixer-lab\[onnx\]'"):
        export_run(run, "onnx", tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"needs onnxruntime; pip install 'convmixer-lab\[onnx\]'"):
        open_model_file(tmp_path / "m.onnx")


def test_what_cannot_be_exported_or_opened_is_said(run: Path, tmp_path: Path, convmixer: Run) -> None:
    def said(*arguments: object) -> str:
        status, _, err = convmixer(*arguments)
        assert (status, "Traceback" in err) == (2, False)
        return err

    assert "does not end in .onnx" in said("export", run, "--out", "m.xml")
    assert "is no folder" in said("export", run, "--out", "nowhere/m.onnx")
    assert "is where the run keeps its own weights" in said(
        "export", run, "--format", "safetensors", "--out", run / "model.safetensors"
    )
    assert "is not a run directory" in said("export", tmp_path)
    (tmp_path / "unfinished").mkdir()
    for name in ("config.json", "dataset.json"):
        (tmp_path / "unfinished" / name).write_text((run / name).read_text())
    assert "has no model.safetensors; the run is interrupted" in said("export", "unfinished")
    assert "no such file" in said("predict", "nothing.onnx", "x.png")
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    assert "ONNX Runtime" in said("predict", "damaged.onnx", "x.png")
    (tmp_path / "damaged.safetensors").write_bytes(b"no model")
    assert "cannot be read as weights" in said("predict", "damaged.safetensors", "x.png")
    (tmp_path / "damaged.pt2").write_bytes(b"no model")
    assert "PyTorch runs code that such a file may hold" in said("predict", "damaged.pt2", "x.png")
    with pytest.raises(InputError, match="cannot load it"):
        open_model_file("damaged.pt2", trusted=True)
    (tmp_path / "damaged.xml").write_bytes(b"no model")
    (tmp_path / "damaged.bin").write_bytes(b"no model")
    assert "openvino" in said("predict", "damaged.xml", "x.png").lower()
    assert "--data: is for model files" in said("evaluate", run, "--data", run)
    export_run(run, "safetensors", "m.safetensors")
    assert "say with --data which run's images" in said("evaluate", "m.safetensors")
    assert "--engine: m.safetensors is a file" in said("evaluate", "m.safetensors", "--engine", "fast")
    assert "--device: m.safetensors is run on the CPU" in said("evaluate", "m.safetensors", "--device", "cuda")
    assert "--cam: m.safetensors keeps no feature maps" in said("predict", "m.safetensors", "x.png", "--cam", "c.png")
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(1, np.float32)}, tmp_path / "strange.safetensors")
    assert "does not say what its classes and images are" in said("predict", "strange.safetensors", "x.png")


def test_graphs_that_are_not_as_described_are_refused(tmp_path: Path) -> None:
    source, file = made_source(depth=1, kernel_size=3), tmp_path / "m.onnx"
    graph = onnx_graph(source)
    describe_onnx(graph, replace(source.info, image_size=16))
    file.write_bytes(graph.SerializeToString())
    with pytest.raises(InputError, match=r"not the images \(N, 3, 16, 16\) uint8 that it describes"):
        open_model_file(file)
    describe_onnx(graph, replace(source.info, classes=("cat", "dog")))
    file.write_bytes(graph.SerializeToString())
    with pytest.raises(InputError, match=r"gives logits of shape .* not \(N, 2\) for the 2 classes"):
        open_model_file(file)
    del graph.metadata_props[:]
    file.write_bytes(graph.SerializeToString())
    with pytest.raises(InputError, match="does not say what its classes"):
        open_model_file(file)
    describe_onnx(graph, source.info)
    graph.opset_import[0].version = 9999
    file.write_bytes(graph.SerializeToString())
    with pytest.raises(InputError, match=r"ONNX Runtime \S+ cannot load it"):
        open_model_file(file)


def test_a_graph_without_inputs_is_refused(tmp_path: Path) -> None:
    source = made_source(depth=1, kernel_size=3)
    constant = onnx.numpy_helper.from_array(np.zeros((1, 3), np.float32))
    output = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 3])
    nodes = [onnx.helper.make_node("Constant", [], ["logits"], value=constant)]
    opset = onnx.helper.make_opsetid("", OPSET)
    made = onnx.helper.make_graph(nodes, "g", [], [output])
    graph = onnx.helper.make_model(made, opset_imports=[opset], ir_version=9)
    describe_onnx(graph, source.info)
    (tmp_path / "m.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(InputError, match="takes nothing"):
        open_model_file(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ((0, 0), r"ONNX Runtime .* cannot run it on 2 images \(.*Reshape"),
        ((8, 108), r"answers with float32 of shape \(8, 108\), not float32 of shape \(2, 3\)"),
    ],
)
def test_a_graph_that_does_not_keep_its_promises_when_it_runs_is_refused(
    first: tuple[int, int], said: str, tmp_path: Path
) -> None:
    source = made_source(depth=1, kernel_size=3)
    helper, kinds = onnx.helper, onnx.TensorProto
    constants = {"row": [-1], "from": [0], "to": [2]}
    nodes = [  # the first two pixels are the shape of the logits
        helper.make_node("Reshape", ["images", "row"], ["pixels"]),
        helper.make_node("Slice", ["pixels", "from", "to"], ["both"]),
        helper.make_node("Cast", ["both"], ["shape"], to=kinds.INT64),
        helper.make_node("Reshape", ["images", "shape"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["logits"], to=kinds.FLOAT),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    given = helper.make_tensor_value_info("images", kinds.UINT8, ["batch", 3, 12, 12])
    outputs = [helper.make_tensor_value_info(name, kinds.FLOAT, ["n", "k"]) for name in ("logits", "probabilities")]
    initial = [onnx.numpy_helper.from_array(np.array(values), name) for name, values in constants.items()]
    made = helper.make_graph(nodes, "g", [given], outputs, initial)
    graph = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    describe_onnx(graph, source.info)
    (tmp_path / "m.onnx").write_bytes(graph.SerializeToString())
    opened = open_model_file(tmp_path / "m.onnx")
    images = np.zeros((2, 3, 12, 12), np.uint8)
    images[0, 0, 0, :2] = first
    with pytest.raises(InputError, match=said):
        opened.logits(images)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_beside_an_openvino_file_is_not_waited_for(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "m.xml").write_text("<net/>")
    os.mkfifo(tmp_path / "m.bin")
    with pytest.raises(InputError, match=r"m\.bin: cannot be read"):
        open_model_file(tmp_path / "m.xml")


@pytest.mark.parametrize("values", [{"mean": (0.5,)}, {"std": (0.2, 0.3)}, {"std": (0.2, 0.3, 0.0)}, {"mean": ()}])
def test_descriptions_of_other_channels_are_refused(values: dict[str, tuple[float, ...]]) -> None:
    text = replace(made_source(depth=1, kernel_size=3).info, **values).to_json()
    with pytest.raises(InputError, match="m: has no mean and deviation above 0 for each of the 3 channels"):
        ModelInfo.from_json(text, "m")


@pytest.mark.parametrize("sizes", [{"dim": 2**31 - 1}, {"depth": 10_000}, {"dim": 10**6}, {"depth": 2}])
def test_descriptions_of_other_networks_take_no_memory(tmp_path: Path, sizes: dict[str, int]) -> None:
    source, file = made_source(depth=1, kernel_size=3), tmp_path / "m.safetensors"
    other = replace(source.info, architecture=replace(source.info.architecture, **sizes))
    FORMATS["safetensors"].write(Source(other, source.answers), file)
    with pytest.raises(InputError, match="do not fit the file's own description"):
        open_model_file(file)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_classes_have_any_names(tmp_path: Path, kind: str) -> None:
    pytest.importorskip(kind)
    names = ("a\"b<c>&'", "né\t\x07", "日本")
    source, file = made_source(depth=1, kernel_size=3), tmp_path / f"m{FORMATS[kind].suffix}"
    FORMATS[kind].write(Source(replace(source.info, classes=names), source.answers), file)
    assert open_model_file(file).classes == names


@pytest.mark.slow
def test_an_exported_run_predicts_without_torch(
    run: Path, tmp_path: Path, convmixer: Run, digits: Dataset, repository: Path
) -> None:
    status, out, err = convmixer("export", run, "--json")
    assert status == 0, err
    file = run / "my-run.onnx"
    assert json.loads(out)["file"] == str(file)
    test = digits.splits["test"]
    for i in range(6):
        Image.fromarray(test.images[i, 0].numpy()).resize((11, 9)).save(tmp_path / f"{i}.png")
    done = without_torch("predict", file, *(f"{i}.png" for i in range(6)), "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    status, out, _ = convmixer("predict", run, *(f"{i}.png" for i in range(6)), "--json", "--device", "cpu")
    for line, expected in zip(done.stdout.splitlines(), out.splitlines(), strict=True):
        found, wanted = json.loads(line), json.loads(expected)
        assert [top["class"] for top in found["top"]] == [top["class"] for top in wanted["top"]]
        assert np.allclose(
            [t["probability"] for t in found["top"]], [t["probability"] for t in wanted["top"]], atol=1e-5
        )
    status, out, _ = convmixer("evaluate", run, "--json", "--device", "cpu")
    expected = json.loads(out)
    for arguments in (
        [file],
        [tmp_path / "model.onnx", "--data", run],
        [tmp_path / "model.onnx", "--dataset", "digits"],
    ):
        shutil.copy(file, tmp_path / "model.onnx")
        done = without_torch("evaluate", *arguments, "--json", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["accuracy"], found["images"], found["another_data_set"]) == (expected["accuracy"], 359, False)
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        assert found["runtime"].startswith("ONNX Runtime")
    text = (repository / "docs" / "deployment.md").read_text()
    (shown,) = re.findall(r"<!-- run: model.onnx, image.png -->\n```python\n(.*?)```", text, flags=re.DOTALL)
    Image.fromarray(test.images[0, 0].numpy()).save(tmp_path / "image.png")
    done = subprocess.run([sys.executable, "-c", shown], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wanted,) = load(run, device="cpu").predict(test.images[0], top_k=1)
    name, probability = done.stdout.split()
    assert name == wanted.classes[0]
    assert abs(float(probability) - wanted.probabilities[0]) < 1e-5
