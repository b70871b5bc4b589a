"""The operations as PyTorch sees them: registered with ``torch.library``, with shapes and gradients.

``convmixer::normalize``, ``mix``, ``depthwise`` and ``pointwise``, and their gradients; ``run_…`` are the same
functions without the registration, whose overhead small tensors would feel: :func:`forms` says which to call. They
work on contiguous channel-major tensors; see :mod:`convmixer.kernels.reference` for shapes, dtypes and formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convmixer.kernels import depthwise as plain
from convmixer.kernels import native, reference, triton_ops
from convmixer.kernels.dispatch import choose, note
from convmixer.kernels.reference import Stage, arithmetic

Gradients = tuple[Tensor | None, ...]


def _of(statistics: Tensor | None, channels: slice) -> Tensor | None:
    return None if statistics is None else statistics[:, channels]


def _rows(x: Tensor | None, channels: slice) -> Tensor | None:
    return None if x is None else x[channels]


def _used(u: Tensor, statistics: Tensor | None, rows: int) -> Tensor:
    """The statistics that an operation returns: a copy of those given, or room for the batch's own."""
    return u.new_empty((rows, u.shape[0]), dtype=arithmetic(u)) if statistics is None else statistics.clone()


def run_normalize(
    u: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    statistics: Tensor | None,
    residual: Tensor | None,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Activation and batch normalisation, as :func:`reference.normalize`."""
    how = choose("normalize", u)
    if how == "triton":
        return triton_ops.normalize(u, bias, gamma, beta, statistics, residual, image_scale, shape, activation, eps)
    out, used = torch.empty_like(u), _used(u, statistics, 2)
    if how == "reference":
        stage = Stage(bias, gamma, beta, eps)

        def compute(c: slice) -> Sequence[Tensor]:
            own = stage.of(c), _of(statistics, c), _rows(residual, c)
            return reference.normalize(u[c], *own, image_scale, shape, activation)

        reference.by_channels(u, compute, [(out, 0), (used, 1)])
        return out, used
    tensors = {"input": u, "bias0": bias, "gamma0": gamma, "beta0": beta, "statistics": used, "output": out}
    native.run(
        "normalize",
        (u.shape[0], *shape),
        {**tensors, "residual": residual, "image_scale": image_scale},
        activation=activation,
        eps=(eps, 0.0),
        batch_statistics=statistics is None,
    )
    return out, used


def run_normalize_backward(
    d: Tensor,
    u: Tensor,
    bias: Tensor,
    gamma: Tensor,
    statistics: Tensor,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
    eps: float,
    of_batch: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``normalize``, as :func:`reference.normalize_backward`."""
    how = choose("normalize_backward", u)
    if how == "triton":
        return triton_ops.normalize_backward(
            d, u, bias, gamma, statistics, image_scale, shape, activation, eps, of_batch
        )
    du, gradients = torch.empty_like(u), gamma.new_empty((3, u.shape[0]))
    if how == "reference":
        stage = Stage(bias, gamma, gamma, eps)  # beta has no part in the gradients

        def compute(c: slice) -> Sequence[Tensor]:
            own = d[c], u[c], stage.of(c), statistics[:, c]
            return reference.normalize_backward(*own, of_batch, image_scale, shape, activation)

        reference.by_channels(u, compute, [(du, 0), (gradients, 1)])
        return du, gradients
    tensors = {"input": u, "gradient": d.contiguous(), "bias0": bias, "gamma0": gamma, "beta0": gamma, "output": du}
    native.run(
        "normalize_backward",
        (u.shape[0], *shape),
        {**tensors, "statistics": statistics, "image_scale": image_scale, "gradients": gradients},
        activation=activation,
        eps=(eps, 0.0),
        batch_statistics=of_batch,
    )
    return du, gradients


def run_mix(
    u: Tensor,
    bias0: Tensor,
    gamma0: Tensor,
    beta0: Tensor,
    weight: Tensor,
    bias1: Tensor,
    gamma1: Tensor,
    beta1: Tensor,
    statistics: Tensor | None,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
    eps: Sequence[float],
    add_input: bool,
    keep_hidden: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Stage 0, depthwise convolution, stage 1 and residual, as :func:`reference.mix`.

    The pre-activations are only returned with ``keep_hidden`` (an empty tensor otherwise); gradients need them.
    """
    how = choose("mix", u, weight.shape[-1], shape[2])
    if how == "triton":
        stages_of = (bias0, gamma0, beta0, weight, bias1, gamma1, beta1)
        return triton_ops.mix(u, *stages_of, statistics, image_scale, shape, activation, eps, add_input)
    out, used = torch.empty_like(u), _used(u, statistics, 4)
    hidden = torch.empty_like(u) if keep_hidden else None
    if how == "reference":
        first, second = Stage(bias0, gamma0, beta0, eps[0]), Stage(bias1, gamma1, beta1, eps[1])

        def compute(c: slice) -> Sequence[Tensor]:
            own = u[c], first.of(c), weight[c], second.of(c), _of(statistics, c)
            return reference.mix(*own, image_scale, shape, activation, add_input)

        reference.by_channels(u, compute, [(out, 0), (hidden, 0), (used, 1)])
        return out, u.new_empty(0) if hidden is None else hidden, used
    tensors = {"input": u, "bias0": bias0, "gamma0": gamma0, "beta0": beta0, "weight": weight, "output": out}
    tensors |= {"bias1": bias1, "gamma1": gamma1, "beta1": beta1, "statistics": used}
    native.run(
        "mix",
        (u.shape[0], *shape),
        {**tensors, "hidden_out": hidden, "image_scale": image_scale},
        kernel_size=weight.shape[-1],
        activation=activation,
        eps=(eps[0], eps[1]),
        batch_statistics=statistics is None,
        add_input=add_input,
    )
    return out, u.new_empty(0) if hidden is None else hidden, used


def run_mix_backward(
    d: Tensor,
    u: Tensor,
    hidden: Tensor,
    bias0: Tensor,
    gamma0: Tensor,
    beta0: Tensor,
    weight: Tensor,
    gamma1: Tensor,
    statistics: Tensor,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
    eps: Sequence[float],
    add_input: bool,
    of_batch: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``mix``, as :func:`reference.mix_backward`."""
    how = choose("mix_backward", u, weight.shape[-1], shape[2])
    if how == "triton":
        stages_of = (bias0, gamma0, beta0, weight, gamma1, statistics)
        return triton_ops.mix_backward(
            d, u, hidden, *stages_of, image_scale, shape, activation, eps, add_input, of_batch
        )
    du, dw, gradients = torch.empty_like(u), torch.empty_like(weight), gamma0.new_empty((6, u.shape[0]))
    if how == "reference":
        first, second = Stage(bias0, gamma0, beta0, eps[0]), Stage(None, gamma1, gamma1, eps[1])

        def compute(c: slice) -> Sequence[Tensor]:
            own = d[c], u[c], hidden[c], first.of(c), weight[c], second.of(c), statistics[:, c]
            return reference.mix_backward(*own, of_batch, image_scale, shape, activation, add_input)

        reference.by_channels(u, compute, [(du, 0), (dw, 0), (gradients, 1)])
        return du, dw, gradients
    tensors = {"input": u, "gradient": d.contiguous(), "hidden_in": hidden, "bias0": bias0, "gamma0": gamma0}
    tensors |= {"beta0": beta0, "weight": weight, "gamma1": gamma1, "beta1": gamma1, "statistics": statistics}
    native.run(
        "mix_backward",
        (u.shape[0], *shape),
        {**tensors, "output": du, "weight_gradient": dw, "gradients": gradients, "image_scale": image_scale},
        kernel_size=weight.shape[-1],
        activation=activation,
        eps=(eps[0], eps[1]),
        batch_statistics=of_batch,
        add_input=add_input,
    )
    return du, dw, gradients


def run_depthwise(x: Tensor, weight: Tensor, shape: Sequence[int], turn: bool) -> Tensor:
    """Depthwise convolution without bias; ``turn`` turns the kernels by 180 degrees: the input gradient."""
    how = choose("depthwise", x, weight.shape[-1], shape[2])
    if how == "triton":
        return triton_ops.depthwise(x, weight, shape, turn)
    if how == "reference":
        return plain.convolve_input_gradient(x, weight, shape) if turn else plain.convolve(x, weight, shape)
    out = torch.empty_like(x)
    tensors = {"input": x, "weight": weight, "output": out}
    native.run("depthwise", (x.shape[0], *shape), tensors, kernel_size=weight.shape[-1], turn=turn)
    return out


def run_depthwise_weight_gradient(x: Tensor, d: Tensor, kernel_size: int, shape: Sequence[int]) -> Tensor:
    """Weight gradient (C, k, k) of the depthwise convolution."""
    how = choose("depthwise_weight_gradient", x, kernel_size, shape[2])
    if how == "triton":
        return triton_ops.depthwise_weight_gradient(x, d, kernel_size, shape)
    if how == "reference":
        return plain.convolve_weight_gradient(x, d, kernel_size, shape)
    dw = x.new_empty((x.shape[0], kernel_size, kernel_size), dtype=torch.float32)
    tensors = {"input": x, "gradient": d.contiguous(), "weight_gradient": dw}
    native.run("depthwise_weight_gradient", (x.shape[0], *shape), tensors, kernel_size=kernel_size)
    return dw


def run_pointwise(weight: Tensor, x: Tensor) -> Tensor:
    """1×1 convolution without bias: (C', C) and (C, M) → (C', M), all of one dtype, by PyTorch's convolution."""
    return torch.conv2d(x[None, :, None], weight[:, :, None, None])[0, :, 0].contiguous()


def _register(function: Callable[..., Any]) -> Any:
    """The operation ``convmixer::name`` for a function ``run_name``, without the ``torch.library.custom_op`` wrapper.

    That would import the compiler of PyTorch, more than a second, when the operation is first called.
    """
    name = f"convmixer::{function.__name__.removeprefix('run_')}"
    schema = torch.library.infer_schema(function, mutates_args=())
    torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(name, "default", function)
    return getattr(torch.ops.convmixer, name.partition("::")[2]).default


# The registered forms: the same functions, seen by autograd, torch.compile and torch.export.
normalize = _register(run_normalize)
normalize_backward = _register(run_normalize_backward)
mix = _register(run_mix)
mix_backward = _register(run_mix_backward)
depthwise = _register(run_depthwise)
depthwise_weight_gradient = _register(run_depthwise_weight_gradient)
pointwise = _register(run_pointwise)


LONG = 4096
"""Columns from which on :func:`multiply` may use a convolution."""


def multiply(weight: Tensor, x: Tensor) -> Tensor:
    """1×1 convolution without bias as a matrix product: (C', C) and (C, M) → (C', M), all of one dtype.

    For float32 on CPUs oneDNN's convolution is the better product: rows of (C, M) that lie 2^n apart share few sets of
    the caches, which costs the BLAS library's product up to half of its speed.
    """
    convolve = x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[1] >= LONG
    if convolve and torch.backends.mkldnn.is_available():
        note("pointwise", "convolution")
        result: Tensor = pointwise(weight, x)
        return result
    note("pointwise", "product")
    return torch.mm(weight, x)


def _fake_normalize(u: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(u), u.new_empty((2, u.shape[0]), dtype=arithmetic(u))


def _fake_normalize_backward(_d: Tensor, u: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(u), u.new_empty((3, u.shape[0]), dtype=arithmetic(u))


def _fake_mix(u: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.empty_like(u) if arguments[-1] else u.new_empty(0)
    return torch.empty_like(u), hidden, u.new_empty((4, u.shape[0]), dtype=arithmetic(u))


def _fake_mix_backward(_d: Tensor, u: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(u), torch.empty_like(arguments[4]), u.new_empty((6, u.shape[0]), dtype=arithmetic(u))


def _fake_depthwise(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_depthwise_weight_gradient(x: Tensor, _d: Tensor, kernel_size: int, _shape: Sequence[int]) -> Tensor:
    return x.new_empty((x.shape[0], kernel_size, kernel_size), dtype=arithmetic(x))


def _no_gradients(*_: Any) -> None:
    raise RuntimeError('the fast engine has no gradients of gradients; use set_engine("plain")')


def _is_recorded(d: Tensor) -> bool:
    """Whether somebody sees how a gradient is computed: a compiler, a dispatch mode, autograd itself, which raises."""
    return torch.compiler.is_compiling() or torch.is_grad_enabled() or is_observed() or type(d) is not Tensor


def _normalize_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    u, bias, gamma, _, statistics, residual, image_scale, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(u, bias, gamma, output[1], image_scale)
    ctx.of_batch, ctx.has_residual = statistics is None, residual is not None


def _normalize_gradients(ctx: Any, d: Tensor | None, _: Tensor | None) -> Gradients:
    if d is None:
        return (None,) * 10
    backward: Callable[..., Any] = normalize_backward if _is_recorded(d) else run_normalize_backward
    du, (bias, gamma, beta) = backward(d, *ctx.saved_tensors, *ctx.settings, ctx.of_batch)
    return du, bias, gamma, beta, None, d if ctx.has_residual else None, None, None, None, None


def _mix_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    u, bias0, gamma0, beta0, weight, _, gamma1, _, statistics, image_scale, *settings, ctx.kept = inputs
    ctx.settings = settings
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(u, output[1], bias0, gamma0, beta0, weight, gamma1, output[2], image_scale)
    ctx.of_batch = statistics is None


def _mix_gradients(ctx: Any, d: Tensor | None, *_: Tensor | None) -> Gradients:
    if d is None:
        return (None,) * 15
    if not ctx.kept:
        raise RuntimeError(
            "convmixer::mix was called with keep_hidden=False: there is nothing to compute gradients from"
        )
    backward: Callable[..., Any] = mix_backward if _is_recorded(d) else run_mix_backward
    du, dw, (bias0, gamma0, beta0, bias1, gamma1, beta1) = backward(d, *ctx.saved_tensors, *ctx.settings, ctx.of_batch)
    return (du, bias0, gamma0, beta0, dw, bias1, gamma1, beta1, *(None,) * 7)


def _depthwise_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.shape, ctx.turn = inputs
    ctx.save_for_backward(x, weight)


def _depthwise_gradients(ctx: Any, d: Tensor) -> Gradients:
    x, weight = ctx.saved_tensors
    dx = depthwise(d.contiguous(), weight, ctx.shape, not ctx.turn) if ctx.needs_input_grad[0] else None
    dw = None
    if ctx.needs_input_grad[1]:
        dw = depthwise_weight_gradient(x, d, weight.shape[-1], ctx.shape).to(weight.dtype)
        dw = dw.flip(-1, -2) if ctx.turn else dw
    return dx, dw, None, None


def _fake_pointwise(weight: Tensor, x: Tensor) -> Tensor:
    return x.new_empty((weight.shape[0], x.shape[1]))


def _pointwise_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _pointwise_gradients(ctx: Any, d: Tensor) -> Gradients:
    weight, x = ctx.saved_tensors
    dweight = torch.mm(d, x.t()) if ctx.needs_input_grad[0] else None
    return dweight, pointwise(weight.t().contiguous(), d.contiguous()) if ctx.needs_input_grad[1] else None


torch.library.register_fake("convmixer::normalize", _fake_normalize)
torch.library.register_fake("convmixer::normalize_backward", _fake_normalize_backward)
torch.library.register_fake("convmixer::mix", _fake_mix)
torch.library.register_fake("convmixer::mix_backward", _fake_mix_backward)
torch.library.register_fake("convmixer::depthwise", _fake_depthwise)
torch.library.register_fake("convmixer::depthwise_weight_gradient", _fake_depthwise_weight_gradient)
torch.library.register_fake("convmixer::pointwise", _fake_pointwise)
torch.library.register_autograd("convmixer::normalize", _normalize_gradients, setup_context=_normalize_setup)
torch.library.register_autograd("convmixer::mix", _mix_gradients, setup_context=_mix_setup)
torch.library.register_autograd("convmixer::depthwise", _depthwise_gradients, setup_context=_depthwise_setup)
torch.library.register_autograd("convmixer::pointwise", _pointwise_gradients, setup_context=_pointwise_setup)
for _name in ("normalize_backward", "mix_backward", "depthwise_weight_gradient"):
    torch.library.register_autograd(f"convmixer::{_name}", _no_gradients)


class Forms(NamedTuple):
    """The same operations in one of their forms."""

    normalize: Callable[..., tuple[Tensor, Tensor]]
    mix: Callable[..., tuple[Tensor, Tensor, Tensor]]
    depthwise: Callable[..., Tensor]


def _function(forward: Callable[..., Any], setup: Callable[..., None], gradients: Callable[..., Gradients]) -> Any:
    """An autograd function: what registration makes as well, without what that costs in every call."""
    parts = {"forward": forward, "setup_context": setup, "backward": gradients}
    members = {name: staticmethod(part) for name, part in parts.items()}
    function: Any = type(forward.__name__, (torch.autograd.Function,), members)
    return function.apply


_REGISTERED = Forms(normalize, mix, depthwise)
_BARE = Forms(run_normalize, run_mix, run_depthwise)
_DIRECT = Forms(
    _function(run_normalize, _normalize_setup, _normalize_gradients),
    _function(run_mix, _mix_setup, _mix_gradients),
    _function(run_depthwise, _depthwise_setup, _depthwise_gradients),
)


def is_observed() -> bool:
    """Whether a dispatch mode, such as a FLOP counter, a tracer or fake tensors, looks at every operation."""
    return torch._C._len_torch_dispatch_stack() > 0


def forms(x: Tensor) -> Forms:
    """The operations for a pass over ``x``: registered where a compiler or dispatch mode looks on."""
    if torch.compiler.is_compiling() or is_observed() or type(x) not in (Tensor, nn.Parameter):
        return _REGISTERED
    return _DIRECT if torch.is_grad_enabled() else _BARE
