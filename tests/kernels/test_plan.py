"""A network as one native call gives what PyTorch's modules give, whatever its sizes, threads and batch."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convmixer.kernels import build, plan
from convmixer.kernels.plan import Layer, Plan
from convmixer.models import ConvMixer
from convmixer.parts.plans import network_layers

pytestmark = pytest.mark.skipif(plan.library() is None, reason="no C++ compiler")


def network(channels: int = 3, **sizes: Any) -> ConvMixer:
    """One whose every part changes something: random weights and statistics."""
    torch.manual_seed(0)
    model = ConvMixer(**{"dim": 16, "depth": 2, "kernel_size": 5, "n_classes": 7, "in_channels": channels, **sizes})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def plan_of(model: ConvMixer, pixels: Any = None) -> Plan:
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if tensor.dim()}
    head = model.config.head if model.n_classes else ""
    layers = network_layers(model.config.blocks(), model.config.branch, head, state, pixels)
    assert layers is not None
    return Plan(layers, model.stem[0].in_channels, model.patch_size)


def exact(model: ConvMixer, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = copy.deepcopy(model).double()(images.double()).numpy()
    return logits


def error(model: ConvMixer, images: torch.Tensor, threads: int | None = None) -> float:
    """Largest difference from float64, in units of the logits' spread."""
    expected = exact(model, images)
    found = plan_of(model).run(images.numpy(), threads)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    return float(np.abs(found - expected).max() / (np.abs(expected).max() + 1e-6))


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("head", ["linear", "rh", "lc"])
@pytest.mark.parametrize("branch", ["depthwise", "bottleneck"])
def test_every_branch_head_and_activation(branch: str, head: str, activation: str) -> None:
    model = network(branch=branch, head=head, activation=activation)
    assert error(model, torch.randn(5, 3, 16, 16)) < 2e-6


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 40),
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    dim=st.integers(1, 70),
    depth=st.integers(1, 3),
    kernel=st.sampled_from([1, 3, 5, 7, 9, 11, 13, 15]),
    patch=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    classes=st.integers(0, 20),
    threads=st.integers(1, 5),
)
def test_any_size(
    batch: int,
    height: int,
    width: int,
    dim: int,
    depth: int,
    kernel: int,
    patch: int,
    channels: int,
    classes: int,
    threads: int,
) -> None:
    patch = min(patch, height, width)
    model = network(channels, dim=dim, depth=depth, kernel_size=kernel, patch_size=patch, n_classes=classes)
    assert error(model, torch.randn(batch, channels, height, width), threads) < 5e-6


def test_a_kernel_for_each_block_and_more_channels_than_a_panel() -> None:
    model = network(dim=300, depth=3, kernel_size=(3, 9, 5), patch_size=7)
    assert error(model, torch.randn(3, 3, 63, 64)) < 2e-6


def test_pixels_are_normalised_within() -> None:
    model, mean, std = network(), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    normalised = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    found = plan_of(model, (mean, std)).run(pixels.numpy())
    np.testing.assert_allclose(found, exact(model, normalised), atol=2e-5)


def test_an_answer_does_not_depend_on_what_is_beside_it_or_on_threads() -> None:
    own, images = plan_of(network(dim=32)), np.random.default_rng(0).normal(size=(37, 3, 32, 32)).astype(np.float32)
    together = own.run(images, 1)
    for threads in (2, 3, 8):
        assert np.array_equal(own.run(images, threads), together)
    for count in (1, 2, 5):
        assert np.array_equal(own.run(images[:count], 2), together[:count])


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_what_other_calls_left_in_memory_does_not_matter(lanes: int) -> None:
    other, own = plan_of(network(kernel_size=5, patch_size=1)), network(kernel_size=5, patch_size=1)
    images = torch.randn(8, 3, lanes, lanes)
    for count in (1, 8):
        other.run(np.full((16, 3, 21, 21), 9.0, np.float32), 1)  # rows that are no whole vectors
        assert error(own, images[:1], 1) < 2e-6
        assert error(own, images[:count], 1) < 2e-6


def test_many_callers_at_once() -> None:
    own, images = plan_of(network()), np.random.default_rng(0).normal(size=(64, 3, 16, 16)).astype(np.float32)
    expected, wrong = own.run(images), list[int]()

    def call(number: int) -> None:
        for first in range(0, 60, 7):
            found = own.run(images[first : first + 1 + number], 1 + number % 3)
            if not np.array_equal(found, expected[first : first + 1 + number]):
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    own, images = plan_of(network()), np.zeros((9, 3, 16, 16), np.float32)
    expected = own.run(images, 3)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(own.run(images, 3), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_infinities_and_nans_stay_where_they_are() -> None:
    own, images = plan_of(network(activation="relu")), np.zeros((3, 3, 16, 16), np.float32)
    images[1, 0, 3, 3] = np.nan
    found = own.run(images)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()


def test_no_images() -> None:
    assert plan_of(network()).run(np.zeros((0, 3, 16, 16), np.float32)).shape == (0, 7)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 16, 16)),
        np.zeros((3, 16, 16), np.float32),
        np.zeros((1, 1, 16, 16), np.float32),
        np.zeros((1, 3, 1, 16), np.float32),
    ],
)
def test_other_images_are_refused(images: Any) -> None:
    with pytest.raises(ValueError, match="images"):
        plan_of(network()).run(images)


def test_layers_that_do_not_fit_are_refused() -> None:
    def floats(*shape: int) -> Any:
        return np.zeros(shape, np.float32)

    stem = Layer(kind="patches", width=4, weight=floats(4, 12))
    for layers in (
        [Layer(kind="means", width=4)],
        [stem, stem],
        [Layer(kind="patches", width=4, weight=floats(4, 11))],
        [Layer(kind="patches", width=4)],
        [stem, Layer(kind="depthwise", width=4, weight=floats(4, 4, 4))],
        [stem, Layer(kind="depthwise", width=5, weight=floats(5, 3, 3))],
        [stem, Layer(kind="pointwise", width=8, weight=floats(8, 5))],
        [stem, Layer(kind="pointwise", width=8, weight=floats(8, 4), add=True)],
        [stem, Layer(kind="pointwise", width=8, weight=floats(8, 4), bias=floats(7))],
    ):
        with pytest.raises(ValueError, match=r"layer \d"):
            Plan(layers, 3, 2)


@pytest.mark.parametrize("instructions", ["DEFAULT", "AVX2"])
def test_other_instruction_sets_compute_the_same(instructions: str) -> None:
    if instructions == "AVX2" and build.instruction_set() == "DEFAULT":
        pytest.skip("has no AVX2")
    model, images = network(dim=40, head="rh"), torch.randn(3, 3, 20, 18)
    own = plan_of(model)
    other = plan.load(str(build.build(instructions, source="plan.cpp")))
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if tensor.dim()}
    layers = network_layers(model.config.blocks(), "depthwise", "rh", state)
    assert layers is not None
    found = Plan(layers, 3, 2, other).run(images.numpy())
    np.testing.assert_allclose(found, own.run(images.numpy()), rtol=1e-5, atol=1e-5)


_EXERCISE = """
import sys
sys.modules["torch"] = None
import numpy as np
from convmixer.config import ModelConfig
from convmixer.kernels import plan
from convmixer.parts.plans import network_layers

random, loaded = np.random.default_rng(0), plan.load(sys.argv[1])

def made(shapes):
    return {name: random.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}

def unit(conv, norm, *shape):
    norms = {f"{norm}.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")}
    return {f"{conv}.weight": shape, f"{conv}.bias": shape[:1], **norms}

for kernel in (1, 5, 9, 15):
    for dim, patch, branch in ((1, 1, "depthwise"), (13, 2, "depthwise"), (24, 3, "bottleneck"), (33, 1, "depthwise")):
        config = ModelConfig(dim=dim, depth=1, kernel_size=kernel, branch=branch)
        block = unit("blocks.0.1", "blocks.0.3", dim, dim, 1, 1)
        if branch == "depthwise":
            block |= unit("blocks.0.0.fn.0", "blocks.0.0.fn.2", dim, 1, kernel, kernel)
        else:
            block |= unit("blocks.0.0.fn.0", "blocks.0.0.fn.2", dim // 2, dim, 1, 1)
            block |= unit("blocks.0.0.fn.3", "blocks.0.0.fn.5", dim // 2, 1, kernel, kernel)
            block |= unit("blocks.0.0.fn.6", "blocks.0.0.fn.8", dim, dim // 2, 1, 1)
        head = {"head.weight": (5, dim), "head.bias": (5,)}
        state = made({**unit("stem.0", "stem.2", dim, 3, patch, patch), **block, **head})
        own = plan.Plan(network_layers(config.blocks(), branch, "linear", state), 3, patch, loaded)
        for batch, height, width in ((1, 3, 3), (1, 32, 32), (2, 16, 48), (7, 7, 9), (19, 8, 16), (1, 9, 31)):
            for threads in (1, 3):
                own.run(random.normal(size=(batch, 3, height, width)).astype(np.float32), threads)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sanitizer", "runtime"), [("address,undefined", "libasan.so"), ("thread", "libtsan.so")], ids=["memory", "threads"]
)
def test_sanitizers_find_nothing(sanitizer: str, runtime: str) -> None:
    compiler = build.compiler()
    assert compiler is not None
    found = subprocess.run([compiler, f"-print-file-name={runtime}"], capture_output=True, text=True, check=True)
    if not Path(found.stdout.strip()).is_absolute():
        pytest.skip(f"{compiler} has no {runtime}")
    flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-O1", "-g0"]
    library = build.build(extra_flags=flags, source="plan.cpp")
    options = {"LD_PRELOAD": found.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _EXERCISE, str(library)], capture_output=True, text=True, env={**os.environ, **options}
    )
    assert done.stdout == "done\n", done.stderr[-3000:]


def test_pytorch_is_not_needed(tmp_path: Path) -> None:
    model, images = network(), torch.randn(2, 3, 16, 16)
    np.savez(tmp_path / "state.npz", **{n: t.numpy() for n, t in model.state_dict().items() if t.dim()})
    np.save(tmp_path / "images.npy", images.numpy())
    script = """
import sys
sys.modules["torch"] = None
import numpy as np
from convmixer.config import ModelConfig
from convmixer.kernels.plan import Plan
from convmixer.parts.plans import network_layers
config = ModelConfig(dim=16, depth=2, kernel_size=5)
layers = network_layers(config.blocks(), config.branch, config.head, dict(np.load("state.npz")))
np.save("out.npy", Plan(layers, 3, 2).run(np.load("images.npy")))
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), plan_of(model).run(images.numpy()))
