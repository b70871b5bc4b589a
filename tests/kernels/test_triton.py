"""The Triton kernels against the float64 reference: on a GPU where there is one, else through Triton's interpreter."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from convmixer.kernels import dispatch, registered, triton_ops
from convmixer.models import create_model
from tests.helpers.operations import act_norm_depthwise_arguments, assert_near, cast, gradient_arguments, relative

pytest.importorskip("triton")

NAMES = ("y", "v", "statistics", "du", "dw", "parameters")


@pytest.fixture(autouse=True, scope="module")
def device() -> Iterator[str]:
    if torch.cuda.is_available():
        with torch.backends.cudnn.flags(allow_tf32=False):  # in the plain engine's convolutions
            yield "cuda"
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_ops, "interpreted", True)  # tests/conftest.py has switched the interpreter on
        yield "cpu"


def moved(arguments: list[Any], device: str) -> list[Any]:
    return [a.to(device) if isinstance(a, Tensor) else a for a in arguments]


def both(arguments: list[Any], storage: torch.dtype, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Results and gradients of act_norm_depthwise by the kernels, and by the float64 reference from the same input."""
    stored = cast(arguments, torch.float32, storage)
    exact = [stored[0].double(), *arguments[1:]]
    d = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(1)).to(storage)
    stored, exact, (d,) = (moved(values, device) for values in (stored, exact, [d]))
    with dispatch.record() as ran:
        value = registered.act_norm_depthwise(*stored)
        own = [*value, *registered.act_norm_depthwise_backward(*gradient_arguments(stored, d, value))]
    assert ran == {("act_norm_depthwise", "triton"): 1, ("act_norm_depthwise_backward", "triton"): 1}
    with dispatch.reference_only():
        value = registered.act_norm_depthwise(*exact)
        return own, [*value, *registered.act_norm_depthwise_backward(*gradient_arguments(exact, d.double(), value))]


@pytest.mark.parametrize(
    ("shape", "batch", "scaled", "add", "activation"),
    [
        ((2, 2, 16, 16, 5), True, False, True, "gelu"),  # whole tiles
        ((2, 2, 16, 16, 9), False, True, True, "gelu"),
        ((1, 3, 7, 9, 15), True, True, True, "gelu"),  # a kernel wider than the map
        ((2, 2, 8, 33, 3), True, True, False, "relu"),
        ((1, 2, 3, 70, 9), True, False, True, "gelu"),  # too wide for all rows of a kernel in one product
        ((2, 70, 8, 8, 1), True, False, True, "relu"),  # several blocks, the last one not full
        ((1, 1, 1, 40, 5), False, False, False, "gelu"),
    ],
)
def test_act_norm_depthwise_agrees_with_the_reference(
    shape: tuple[int, ...], batch: bool, scaled: bool, add: bool, activation: str, device: str
) -> None:
    arguments = act_norm_depthwise_arguments(shape, batch=batch, scaled=scaled, add=add, activation=activation)
    for name, own, expected in zip(NAMES, *both(arguments, torch.float32, device), strict=True):
        assert_near(own, expected, name)


@hypothesis.settings(max_examples=6, deadline=None, derandomize=True)
@hypothesis.given(
    images=st.integers(2, 5),
    height=st.integers(4, 12),
    width=st.integers(4, 20),
    kernel=st.sampled_from([1, 3, 7]),
    batch=st.booleans(),
)
def test_any_size(images: int, height: int, width: int, kernel: int, batch: bool, device: str) -> None:
    hypothesis.assume(images * height * width > 64)  # statistics of fewer values magnify rounding
    arguments = act_norm_depthwise_arguments((1, images, height, width, kernel), batch=batch, scaled=False)
    for name, own, expected in zip(NAMES, *both(arguments, torch.float32, device), strict=True):
        assert_near(own, expected, name)


# Triton's interpreter cannot multiply bfloat16 matrices.
@pytest.mark.parametrize("storage", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)])
@pytest.mark.parametrize("size", [(5, 16, 16, 5), (2, 16, 16, 9), (3, 8, 8, 7), (130, 8, 8, 3), (2, 12, 20, 5)])
@pytest.mark.parametrize("add", [True, False])
def test_half_precision_is_as_good_as_its_storage(
    storage: torch.dtype, size: tuple[int, ...], add: bool, device: str
) -> None:
    own, expected = both(act_norm_depthwise_arguments((2, *size), batch=True, scaled=not add, add=add), storage, device)
    unit = torch.finfo(storage).eps
    for name, a, b in zip(NAMES, own, expected, strict=True):
        assert relative(a, b) < 2 * unit, name


@pytest.mark.parametrize("batch", [True, False])
def test_act_norm(batch: bool, device: str) -> None:
    u, bias, gamma, beta, *_, statistics, scale, size, activation, _, _, _ = act_norm_depthwise_arguments(
        (2, 3, 9, 11, 1), batch=batch, scaled=True
    )
    statistics = None if statistics is None else statistics[:2]
    single = moved(
        [None if a is None else a.float() for a in (u, bias, gamma, beta, statistics, u.flip(0), scale)], device
    )
    double = [None if a is None else a.double() for a in single]
    value, expected = (
        registered.act_norm(*single, size, activation, 1e-5),
        registered.act_norm(*double, size, activation, 1e-5),
    )
    assert_near(value[0], expected[0])
    assert_near(value[1], expected[1])
    rest = [size, activation, 1e-5, batch]
    d = single[0].flip(1)
    own = registered.act_norm_backward(d, *single[:3], value[1], single[6], *rest)
    exact = registered.act_norm_backward(d.double(), *double[:3], expected[1], double[6], *rest)
    assert_near(own[0], exact[0])
    assert_near(own[1], exact[1])


@pytest.mark.parametrize("turn", [False, True])
def test_depthwise_alone(turn: bool, device: str) -> None:
    size = [2, 9, 12]
    x = torch.randn(3, 216, device=device, requires_grad=True)
    weight = torch.randn(3, 5, 5, device=device, requires_grad=True)
    d = torch.randn_like(x)
    y = registered.depthwise(x, weight, size, turn)
    with dispatch.record() as ran:
        own = torch.autograd.grad(y, (x, weight), d)
    assert {how for _, how in ran} == {"triton"}
    exact = [a.detach().double().requires_grad_() for a in (x, weight)]
    expected = registered.depthwise(*exact, size, turn)
    assert_near(y.detach(), expected.detach())
    for a, b in zip(own, torch.autograd.grad(expected, exact, d.double()), strict=True):
        assert_near(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convmixer", "convmixer_bn"])
def test_a_model_is_the_same(name: str, device: str) -> None:
    torch.manual_seed(0)
    plain = create_model(name, dim=4, depth=2, kernel_size=3, engine="plain", drop_path=0.3).to(device)
    fast = copy.deepcopy(plain)
    fast.set_engine("fast")
    images = torch.randn(5, 3, 12, 12, device=device)
    for model in (plain, fast):
        torch.manual_seed(1)
        model(images).square().sum().backward()
    for (key, a), b in zip(fast.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=key)
    own, expected = (
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) for model in (fast, plain)
    )
    assert relative(own, expected) < 1e-5
    with torch.no_grad():
        torch.testing.assert_close(fast.eval()(images), plain.eval()(images), rtol=1e-4, atol=1e-5)


def test_what_the_kernels_do_not_cover(device: str) -> None:
    x = torch.zeros(1, 4, device=device)
    assert triton_ops.covers(x, 5, 4)
    assert not triton_ops.covers(x.double(), 5, 4)
    assert not triton_ops.covers(x, 17, 4)
    assert not triton_ops.covers(x, 5, 500)
    assert not triton_ops.covers(x[:, :0], 5, 4)
