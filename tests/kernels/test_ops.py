"""The fused operations: native against the float64 reference, gradients, registration, determinism, NaN."""

from __future__ import annotations

import inspect
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from convmixer.kernels import depthwise as plain
from convmixer.kernels import dispatch, layout, native, ops, reference, registered, triton_ops
from convmixer.kernels.backend import ActNorm, ActNormDepthwise, Backend, Maps
from tests.helpers.operations import act_norm_depthwise_arguments, assert_near, cast, gradient_arguments, relative

needs_native = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")
quick = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)

SHAPES = st.tuples(
    st.integers(1, 5), st.integers(1, 19), st.integers(1, 21), st.integers(1, 40), st.sampled_from(range(1, 16, 2))
)


@needs_native
@quick
@hypothesis.given(SHAPES, st.booleans(), st.booleans(), st.sampled_from(["gelu", "relu"]), st.booleans())
# Two rows to a vector, with a row left over; and blocks of images, the last one laid out in another way.
@hypothesis.example((3, 5, 7, 8, 5), True, False, "gelu", True)
@hypothesis.example((3, 33, 8, 8, 5), False, True, "gelu", True)
@hypothesis.example((3, 130, 5, 4, 3), False, False, "gelu", True)
def test_act_norm_depthwise_agrees_with_the_reference(
    shape: tuple[int, ...], batch: bool, scaled: bool, activation: str, add: bool
) -> None:
    hypothesis.assume(not batch or shape[1] * shape[2] * shape[3] > 32)  # few values: the variance is ill-conditioned
    exact = act_norm_depthwise_arguments(shape, batch=batch, scaled=scaled, activation=activation, add=add)
    single = cast(exact, torch.float32)
    exact[0] = single[0].double()
    d = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(1))
    expected, value = registered.act_norm_depthwise(*exact), registered.act_norm_depthwise(*single)
    gradients = registered.act_norm_depthwise_backward(*gradient_arguments(exact, d.double(), expected))
    own = registered.act_norm_depthwise_backward(*gradient_arguments(single, d, value))
    names = ["y", "v", "statistics", "du", "dw", "parameters"]
    for name, a, b in zip(names, (*value, *own), (*expected, *gradients), strict=True):
        assert_near(a, b, name)


@needs_native
@pytest.mark.parametrize("size", [(16, 16), (7, 9)])
def test_act_norm_depthwise_in_bfloat16_is_as_good_as_its_storage(size: tuple[int, int]) -> None:
    exact = act_norm_depthwise_arguments((4, 33, *size, 5), batch=True, scaled=False)
    stored = cast(exact, torch.float32, torch.bfloat16)
    exact[0] = stored[0].double()
    d = torch.randn(exact[0].shape).bfloat16()
    expected, value = registered.act_norm_depthwise(*exact), registered.act_norm_depthwise(*stored)
    own = registered.act_norm_depthwise_backward(*gradient_arguments(stored, d, value))
    gradients = registered.act_norm_depthwise_backward(*gradient_arguments(exact, d.double(), expected))
    assert relative(value[0], expected[0]) < 3e-3  # half a unit in the last place of 8 bits
    assert relative(own[0], gradients[0]) < 1e-2
    assert relative(own[1], gradients[1]) < 1e-2


@needs_native
@quick
@hypothesis.given(SHAPES, st.booleans(), st.booleans(), st.booleans())
def test_act_norm_agrees_with_the_reference(shape: tuple[int, ...], batch: bool, scaled: bool, added: bool) -> None:
    _, images, height, width, _ = shape
    hypothesis.assume(not batch or images * height * width > 32)
    u, bias, gamma, beta, *_, statistics, scale, size, activation, _, _, _ = act_norm_depthwise_arguments(
        shape, batch=batch, scaled=scaled
    )
    statistics = None if statistics is None else statistics[:2]
    residual = torch.randn(u.shape) if added else None
    single = [a.float() if isinstance(a, Tensor) else a for a in (u, bias, gamma, beta, statistics, residual, scale)]
    double = [a.double() if isinstance(a, Tensor) else a for a in single]
    value, expected = (registered.act_norm(*a, size, activation, 1e-5) for a in (single, double))
    assert_near(value[0], expected[0])
    d = torch.randn(u.shape)
    rest = [size, activation, 1e-5, batch]
    own = registered.act_norm_backward(d, single[0], single[1], single[2], value[1], single[6], *rest)
    gradients = registered.act_norm_backward(d.double(), double[0], double[1], double[2], expected[1], double[6], *rest)
    assert_near(own[0], gradients[0])
    assert_near(own[1], gradients[1])


@quick
@hypothesis.given(SHAPES, st.sampled_from([torch.float32, torch.float64]))
def test_depthwise_agrees_with_conv2d(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    channels, images, height, width, kernel = shape
    x = torch.randn(images, channels, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(channels, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, weight, padding=kernel // 2, groups=channels)
    d = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, weight), d)
    own_x = layout.from_maps(x.detach()).to(dtype).requires_grad_()
    own_weight = weight.detach().squeeze(1).to(dtype).requires_grad_()
    own_y = registered.depthwise(own_x, own_weight, [images, height, width], False)
    own = torch.autograd.grad(own_y, (own_x, own_weight), layout.from_maps(d).to(dtype))
    assert relative(own_y, layout.from_maps(y)) < 1e-5
    assert relative(own[0], layout.from_maps(expected[0])) < 1e-5
    assert relative(own[1], expected[1].squeeze(1)) < 1e-5


@quick
@hypothesis.given(SHAPES)
def test_banded_and_direct_reference_agree(shape: tuple[int, ...]) -> None:
    channels, *size, kernel = shape
    x, g = torch.randn(2, channels, size[0] * size[1] * size[2], dtype=torch.float64)
    weight = torch.randn(channels, kernel, kernel, dtype=torch.float64)
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (plain.convolve, (x, weight, size)),
        (plain.convolve_input_gradient, (g, weight, size)),
        (plain.convolve_weight_gradient, (x, g, kernel, size)),
    ]
    for function, arguments in calls:
        torch.testing.assert_close(function(*arguments, banded=True), function(*arguments, banded=False))


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_reference_is_the_same_for_some_channels_at_a_time(
    monkeypatch: pytest.MonkeyPatch, storage: torch.dtype, channels: int
) -> None:
    exact = act_norm_depthwise_arguments((5, 8, 6, 7, 5), batch=True, scaled=True)
    stored = cast(exact, torch.float32, storage)
    exact[0] = stored[0].double()
    d = torch.randn(exact[0].shape).to(storage)
    monkeypatch.setattr(reference, "CHUNK", channels * exact[0].shape[1])
    with dispatch.reference_only():
        value = registered.act_norm_depthwise(*stored)
        own = (*value, *registered.act_norm_depthwise_backward(*gradient_arguments(stored, d, value)))
        assert registered.act_norm_depthwise(*stored[:-1], False)[1].numel() == 0
    monkeypatch.setattr(reference, "CHUNK", exact[0].numel())
    expected = registered.act_norm_depthwise(*exact)
    whole = (*expected, *registered.act_norm_depthwise_backward(*gradient_arguments(exact, d.double(), expected)))
    assert [a.dtype for a in own] == [storage, storage, torch.float32, storage, torch.float32, torch.float32]
    for a, b in zip(own, whole, strict=True):
        assert relative(a, b) < (1e-5 if storage == torch.float32 else 2e-2)  # convolutions round to 8 bits as well


def test_act_norm_depthwise_is_what_the_modules_compute() -> None:
    """The float64 reference itself, against PyTorch's modules and their autograd."""
    arguments = act_norm_depthwise_arguments((3, 4, 6, 5, 3), batch=True, scaled=False)
    leaves = [a.requires_grad_() for a in arguments[:8]]
    u, b0, g0, e0, w, b1, g1, e1 = leaves

    def stage(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
        return F.batch_norm(F.gelu(x), None, None, gamma, beta, True, 0.1, eps)

    x = stage(layout.to_maps(u, [4, 6, 5]) + b0[:, None, None], g0, e0, 1e-5)
    expected = x + stage(F.conv2d(x, w.unsqueeze(1), b1, padding=1, groups=3), g1, e1, 1e-3)
    d = torch.randn_like(expected)
    value = registered.act_norm_depthwise(*arguments)[0]
    torch.testing.assert_close(layout.to_maps(value, [4, 6, 5]), expected)
    own = torch.autograd.grad(value, leaves, layout.from_maps(d))
    for a, b in zip(own, torch.autograd.grad(expected, leaves, d), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_gradcheck(batch: bool, activation: str) -> None:
    arguments = act_norm_depthwise_arguments((2, 3, 3, 2, 3), batch=batch, scaled=True, activation=activation)
    arguments[:8] = [a.requires_grad_() for a in arguments[:8]]
    assert torch.autograd.gradcheck(lambda *a: registered.act_norm_depthwise(*a)[0], arguments, fast_mode=True)
    u, bias, gamma, beta, *_, statistics, scale, size, _, _, _, _ = arguments
    statistics = None if statistics is None else statistics[:2]
    residual = torch.randn_like(u).requires_grad_()
    own: list[Any] = [u, bias, gamma, beta, statistics, residual, scale, size, activation, 1e-5]
    assert torch.autograd.gradcheck(lambda *a: registered.act_norm(*a)[0], own, fast_mode=True)
    assert torch.autograd.gradcheck(lambda *a: registered.depthwise(*a, size, False), [u, arguments[4]])
    assert torch.autograd.gradcheck(lambda *a: registered.depthwise(*a, size, True), [u, arguments[4]])
    matrix = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(registered.pointwise, [matrix, u])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_registration(dtype: torch.dtype) -> None:
    compute = torch.promote_types(dtype, torch.float32)
    arguments = cast(act_norm_depthwise_arguments((2, 3, 5, 4, 3), batch=True, scaled=True), compute, dtype)
    d = torch.randn(arguments[0].shape).to(dtype)
    result = registered.act_norm_depthwise(*arguments)
    arguments[:8] = [a.requires_grad_() for a in arguments[:8]]
    u, bias, gamma, beta, weight, *_, scale, size, activation, _, _, _ = arguments
    calls: list[tuple[Any, list[Any]]] = [
        (registered.act_norm_depthwise, arguments),
        (registered.act_norm, [u, bias, gamma, beta, None, None, scale, size, activation, 1e-5]),
        (registered.depthwise, [u, weight, size, False]),
        (registered.pointwise, [torch.randn(4, 2).to(dtype).requires_grad_(), u]),
    ]
    backward = [a.detach() if isinstance(a, Tensor) else a for a in gradient_arguments(arguments, d, result)]
    torch.library.opcheck(registered.act_norm_depthwise_backward, tuple(backward))
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    for operation, values in calls:
        torch.library.opcheck(operation, tuple(values), test_utils=tests)


@pytest.mark.parametrize("operation", ["act_norm", "act_norm_depthwise", "depthwise"])
def test_every_binding_of_an_operation_computes_the_same(operation: str) -> None:
    arguments = cast(act_norm_depthwise_arguments((3, 4, 6, 5, 3), batch=True, scaled=True), torch.float32)
    leaves = [a.requires_grad_() for a in arguments[:8]]
    u, bias0, gamma0, beta0, weight, bias, gamma, beta, _, scale, size, activation, eps, add, keep = arguments
    first, second = ActNorm(bias0, gamma0, beta0, eps[0]), ActNorm(bias, gamma, beta, eps[1])
    maps = Maps(size, activation, scale)
    choices: dict[str, list[Any]] = {
        "act_norm": [u, first, None, None, maps],
        "act_norm_depthwise": [u, ActNormDepthwise(first, weight, second, add), None, maps, keep],
        "depthwise": [u, weight, size, True],
    }
    own = choices[operation]
    results = []
    for bindings in (ops.bindings(u), ops.bindings(FakeTensorMode().from_tensor(u))):
        value = getattr(bindings, operation)(*own)
        first_value = value if isinstance(value, Tensor) else value[0]
        results.append([first_value, *torch.autograd.grad(first_value.square().sum(), leaves, allow_unused=True)])
    with torch.no_grad():
        value = getattr(ops.bindings(u), operation)(*own)
        results.append([value if isinstance(value, Tensor) else value[0]])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=False) if a is not None)
    assert len({getattr(each, operation) for each in (ops.AUTOGRAD, ops.REGISTERED, ops.NO_GRAD)}) == 3


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    arguments = cast(act_norm_depthwise_arguments((24, 5, 11, 13, 5), batch=True, scaled=False), torch.float32, dtype)
    d = torch.randn(arguments[0].shape).to(dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            value = registered.act_norm_depthwise(*arguments)
            results.append((*value, *registered.act_norm_depthwise_backward(*gradient_arguments(arguments, d, value))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("batch", [True, False])
def test_nan_and_infinity_go_where_the_reference_has_them(bad: float, activation: str, batch: bool) -> None:
    arguments = cast(
        act_norm_depthwise_arguments((2, 3, 6, 5, 3), batch=batch, scaled=False, activation=activation), torch.float32
    )
    arguments[0][1, 37] = bad
    value = registered.act_norm_depthwise(*arguments)[0]
    with dispatch.reference_only():
        expected = registered.act_norm_depthwise(*arguments)[0]
    assert torch.equal(value.isfinite(), expected.isfinite())
    assert expected.isnan()[value.isnan()].all()  # convolutions that subtract inputs make NaN of infinity, too
    assert value.isfinite()[0].all()


def test_gradients_without_kept_pre_activations_are_refused() -> None:
    arguments = act_norm_depthwise_arguments((2, 3, 4, 4, 3), batch=True, scaled=False)
    arguments[0].requires_grad_()
    arguments[-1] = False
    with pytest.raises(RuntimeError, match="keep_hidden"):
        registered.act_norm_depthwise(*arguments)[0].sum().backward()


@needs_native
def test_gelu_of_bfloat16_is_as_exact_as_its_storage() -> None:
    x = torch.linspace(-7, 7, 20_001).bfloat16()[None]
    one, zero = torch.ones(1), torch.zeros(1)
    size, statistics = [1, 1, x.shape[1]], torch.tensor([[0.0], [1.0]])
    value, _ = registered.act_norm(x, zero, one, zero, statistics, None, None, size, "gelu", 0.0)
    slope, _ = registered.act_norm_backward(
        torch.ones_like(x), x, zero, one, statistics, None, size, "gelu", 0.0, False
    )
    exact = F.gelu(x.double()), torch.ops.aten.gelu_backward(torch.ones_like(x).double(), x.double())
    for result, expected in zip((value, slope), exact, strict=True):
        rounding = (expected.bfloat16().double() - expected).abs()
        assert float(((result.double() - expected).abs() - rounding).max()) < 2e-4  # rounding at 1 is 20 times that


@needs_native
def test_gelu_is_as_exact_as_stated() -> None:
    x = torch.linspace(-7, 7, 200_001, dtype=torch.float64)[None].float()
    one, zero = torch.ones(1), torch.zeros(1)
    statistics = torch.tensor([[0.0], [1.0]])
    size = [1, 1, x.shape[1]]
    value, _ = registered.act_norm(x, zero, one, zero, statistics, None, None, size, "gelu", 0.0)
    assert float((value.double() - F.gelu(x.double())).abs().max()) < 7.5e-7
    slope, _ = registered.act_norm_backward(
        torch.ones_like(x), x, zero, one, statistics, None, size, "gelu", 0.0, False
    )
    exact = torch.ops.aten.gelu_backward(torch.ones_like(x).double(), x.double())
    assert float((slope.double() - exact).abs().max()) < 3e-7


def test_patches_and_pointwise_are_convolutions() -> None:
    images, weight = torch.randn(2, 3, 9, 11), torch.randn(4, 3, 2, 2)
    y = ops.multiply(weight.flatten(1), layout.patches(images, 2))
    torch.testing.assert_close(layout.to_maps(y, [2, 4, 5]), F.conv2d(images, weight, stride=2))


@pytest.mark.parametrize(("outputs", "inputs"), [(5, 3), (1, 4), (4, 1)])
@pytest.mark.parametrize("columns", [7, ops.LONG, ops.LONG + 5])
def test_multiply_is_a_matrix_product(outputs: int, inputs: int, columns: int) -> None:
    weight, x, d = torch.randn(outputs, inputs), torch.randn(inputs, columns), torch.randn(outputs, columns)
    leaves = [weight.requires_grad_(), x.requires_grad_()]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    with dispatch.record() as ran:
        y, expected = ops.multiply(*leaves), exact[0] @ exact[1]
    how = "convolution" if columns >= ops.LONG and torch.backends.mkldnn.is_available() else "product"
    assert ran == {("pointwise", how): 1}
    assert y.is_contiguous()
    y.backward(d)
    expected.backward(d.double())
    for value, good in [(y, expected), (weight.grad, exact[0].grad), (x.grad, exact[1].grad)]:
        assert value is not None
        assert good is not None
        assert relative(value, good) < 1e-5


def test_record_says_what_ran() -> None:
    arguments = act_norm_depthwise_arguments((2, 3, 4, 4, 3), batch=False, scaled=False)
    with dispatch.record() as ran:
        registered.act_norm_depthwise(*arguments)
    assert ran == {("act_norm_depthwise", "reference"): 1}


@needs_native
@pytest.mark.parametrize(
    ("index", "value"),
    [
        (1, torch.ones(5)),
        (0, torch.ones(2, 47)),
        (9, torch.ones(2)),
        (4, torch.ones(2, 3, 3, dtype=torch.float64)),
        (8, torch.ones(2, 2)),
    ],
)
def test_tensors_that_do_not_fit_are_refused(index: int, value: Tensor) -> None:
    arguments = cast(act_norm_depthwise_arguments((2, 3, 4, 4, 3), batch=True, scaled=False), torch.float32)
    arguments[index] = value
    with pytest.raises(ValueError, match="expected"):
        registered.act_norm_depthwise(*arguments)


def test_backends_have_the_signatures_of_the_protocol() -> None:
    names = [name for name, member in vars(Backend).items() if inspect.isfunction(member) and not name.startswith("_")]
    assert len(names) == 7
    for backend in (native, reference, triton_ops):
        for name in names:
            expected = list(inspect.signature(getattr(Backend, name)).parameters)[1:]
            assert list(inspect.signature(getattr(backend, name)).parameters) == expected, (backend.__name__, name)
