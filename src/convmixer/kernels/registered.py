"""The operations as ``torch.library`` knows them, ``torch.ops.convmixer``: with shapes and gradients.

A schema has tensors, numbers and texts only. Each class ``…Arguments`` is the arguments of one operation laid out flat,
in the order of its schema: how it is run, what its results look like, and, if it can be differentiated, what is saved
for its gradients and what these are. Shapes are those of :class:`Backend`.
"""
# ruff: noqa: D102 - the methods are the same in each class, and described above

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

from convmixer.kernels import dispatch, flops
from convmixer.kernels.backend import ActNorm, ActNormDepthwise, Maps, arithmetic_dtype

Gradients = tuple[Any, ...]


class ActNormArguments(NamedTuple):
    """Of ``convmixer::act_norm``."""

    u: Tensor
    bias: Tensor
    gamma: Tensor
    beta: Tensor
    statistics: Tensor | None
    residual: Tensor | None
    image_scale: Tensor | None
    shape: Sequence[int]
    activation: str
    eps: float

    @staticmethod
    def of(
        u: Tensor, norm: ActNorm, statistics: Tensor | None, residual: Tensor | None, maps: Maps
    ) -> ActNormArguments:
        shape, activation, scale = maps
        return ActNormArguments(u, *_parameters(norm), statistics, residual, scale, shape, activation, norm.eps)

    def run(self) -> tuple[Tensor, Tensor]:
        norm = ActNorm(self.bias, self.gamma, self.beta, self.eps)
        maps = Maps(self.shape, self.activation, self.image_scale)
        return dispatch.act_norm(self.u, norm, self.statistics, self.residual, maps)

    def fake(self) -> tuple[Tensor, Tensor]:
        return torch.empty_like(self.u), self.u.new_empty((2, len(self.u)), dtype=arithmetic_dtype(self.u))

    def save(self, ctx: Any, output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(self.u, self.bias, self.gamma, output[1], self.image_scale)
        ctx.settings = self.shape, self.activation, self.eps, self.statistics is None
        ctx.has_residual = self.residual is not None

    @staticmethod
    def gradients(ctx: Any, d: Tensor | None, _: Tensor | None) -> Gradients:
        if d is None:
            return _gradients(ActNormArguments)
        arguments = ActNormBackwardArguments(d, *ctx.saved_tensors, *ctx.settings)
        du, (bias, gamma, beta) = _run(act_norm_backward, d, arguments)
        residual = d if ctx.has_residual else None
        return _gradients(ActNormArguments, u=du, bias=bias, gamma=gamma, beta=beta, residual=residual)


class ActNormBackwardArguments(NamedTuple):
    """Of ``convmixer::act_norm_backward``."""

    d: Tensor
    u: Tensor
    bias: Tensor
    gamma: Tensor
    statistics: Tensor
    image_scale: Tensor | None
    shape: Sequence[int]
    activation: str
    eps: float
    of_batch: bool

    def run(self) -> tuple[Tensor, Tensor]:
        norm = ActNorm(self.bias, self.gamma, self.gamma, self.eps)
        maps = Maps(self.shape, self.activation, self.image_scale)
        return dispatch.act_norm_backward(self.d, self.u, norm, self.statistics, self.of_batch, maps)

    def fake(self) -> tuple[Tensor, Tensor]:
        return torch.empty_like(self.u), self.gamma.new_empty((3, len(self.u)))


class ActNormDepthwiseArguments(NamedTuple):
    """Of ``convmixer::act_norm_depthwise``."""

    u: Tensor
    bias0: Tensor
    gamma0: Tensor
    beta0: Tensor
    weight: Tensor
    bias1: Tensor
    gamma1: Tensor
    beta1: Tensor
    statistics: Tensor | None
    image_scale: Tensor | None
    shape: Sequence[int]
    activation: str
    eps: Sequence[float]
    add_input: bool
    keep_hidden: bool

    @staticmethod
    def of(
        u: Tensor, layers: ActNormDepthwise, statistics: Tensor | None, maps: Maps, keep_hidden: bool
    ) -> ActNormDepthwiseArguments:
        first, weight, second, add_input = layers
        shape, activation, scale = maps
        tensors = (*_parameters(first), weight, *_parameters(second))
        settings = shape, activation, (first.eps, second.eps), add_input, keep_hidden
        return ActNormDepthwiseArguments(u, *tensors, statistics, scale, *settings)

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        first = ActNorm(self.bias0, self.gamma0, self.beta0, self.eps[0])
        second = ActNorm(self.bias1, self.gamma1, self.beta1, self.eps[1])
        layers = ActNormDepthwise(first, self.weight, second, self.add_input)
        maps = Maps(self.shape, self.activation, self.image_scale)
        y, hidden, used = dispatch.act_norm_depthwise(self.u, layers, self.statistics, maps, self.keep_hidden)
        return y, self.u.new_empty(0) if hidden is None else hidden, used

    def fake(self) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.empty_like(self.u) if self.keep_hidden else self.u.new_empty(0)
        return torch.empty_like(self.u), hidden, self.u.new_empty((4, len(self.u)), dtype=arithmetic_dtype(self.u))

    def save(self, ctx: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, hidden, used = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(hidden, used)
        first = self.bias0, self.gamma0, self.beta0
        ctx.save_for_backward(self.u, hidden, *first, self.weight, self.gamma1, used, self.image_scale)
        ctx.settings = self.shape, self.activation, self.eps, self.add_input, self.statistics is None
        ctx.has_hidden = self.keep_hidden

    @staticmethod
    def gradients(ctx: Any, d: Tensor | None, *_: Tensor | None) -> Gradients:
        if d is None:
            return _gradients(ActNormDepthwiseArguments)
        if not ctx.has_hidden:
            raise RuntimeError("convmixer::act_norm_depthwise was called with keep_hidden=False and has no gradients")
        arguments = ActNormDepthwiseBackwardArguments(d, *ctx.saved_tensors, *ctx.settings)
        du, dw, parameters = _run(act_norm_depthwise_backward, d, arguments)
        names = ("bias0", "gamma0", "beta0", "bias1", "gamma1", "beta1")
        return _gradients(ActNormDepthwiseArguments, u=du, weight=dw, **dict(zip(names, parameters, strict=True)))


class ActNormDepthwiseBackwardArguments(NamedTuple):
    """Of ``convmixer::act_norm_depthwise_backward``."""

    d: Tensor
    u: Tensor
    hidden: Tensor
    bias0: Tensor
    gamma0: Tensor
    beta0: Tensor
    weight: Tensor
    gamma1: Tensor
    statistics: Tensor
    image_scale: Tensor | None
    shape: Sequence[int]
    activation: str
    eps: Sequence[float]
    add_input: bool
    of_batch: bool

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        first = ActNorm(self.bias0, self.gamma0, self.beta0, self.eps[0])
        second = ActNorm(None, self.gamma1, self.gamma1, self.eps[1])
        layers = ActNormDepthwise(first, self.weight, second, self.add_input)
        maps = Maps(self.shape, self.activation, self.image_scale)
        own = self.d, self.u, self.hidden
        return dispatch.act_norm_depthwise_backward(*own, layers, self.statistics, self.of_batch, maps)

    def fake(self) -> tuple[Tensor, Tensor, Tensor]:
        parameters = self.gamma0.new_empty((6, len(self.u)))
        return torch.empty_like(self.u), torch.empty_like(self.weight), parameters


class DepthwiseArguments(NamedTuple):
    """Of ``convmixer::depthwise``."""

    x: Tensor
    weight: Tensor
    shape: Sequence[int]
    turn: bool

    def run(self) -> Tensor:
        return dispatch.depthwise(*self)

    def fake(self) -> Tensor:
        return torch.empty_like(self.x)

    def save(self, ctx: Any, output: Tensor) -> None:
        ctx.save_for_backward(self.x, self.weight)
        ctx.settings = self.shape, self.turn

    @staticmethod
    def gradients(ctx: Any, d: Tensor) -> Gradients:
        (x, weight), (shape, turn) = ctx.saved_tensors, ctx.settings
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = _run(depthwise, d, DepthwiseArguments(d.contiguous(), weight, shape, not turn))
        if ctx.needs_input_grad[1]:
            arguments = DepthwiseWeightGradientArguments(x, d, weight.shape[-1], shape)
            dw = _run(depthwise_weight_gradient, d, arguments).to(weight.dtype)
            dw = dw.flip(-1, -2) if turn else dw
        return _gradients(DepthwiseArguments, x=dx, weight=dw)


class DepthwiseWeightGradientArguments(NamedTuple):
    """Of ``convmixer::depthwise_weight_gradient``."""

    x: Tensor
    d: Tensor
    kernel_size: int
    shape: Sequence[int]

    def run(self) -> Tensor:
        return dispatch.depthwise_weight_gradient(*self)

    def fake(self) -> Tensor:
        size = (len(self.x), self.kernel_size, self.kernel_size)
        return self.x.new_empty(size, dtype=arithmetic_dtype(self.x))


class PointwiseArguments(NamedTuple):
    """Of ``convmixer::pointwise``: 1×1 convolution without bias, (C', C) and (C, M) → (C', M), all of one dtype."""

    weight: Tensor
    x: Tensor

    def run(self) -> Tensor:
        return torch.conv2d(self.x[None, :, None], self.weight[:, :, None, None])[0, :, 0].contiguous()

    def fake(self) -> Tensor:
        return self.x.new_empty((len(self.weight), self.x.shape[1]))

    def save(self, ctx: Any, output: Tensor) -> None:
        ctx.save_for_backward(self.weight, self.x)

    @staticmethod
    def gradients(ctx: Any, d: Tensor) -> Gradients:
        weight, x = ctx.saved_tensors
        dweight = torch.mm(d, x.t()) if ctx.needs_input_grad[0] else None
        dx = pointwise(weight.t().contiguous(), d.contiguous()) if ctx.needs_input_grad[1] else None
        return _gradients(PointwiseArguments, weight=dweight, x=dx)


def _parameters(norm: ActNorm) -> tuple[Tensor, Tensor, Tensor]:
    assert norm.bias is not None
    return norm.bias, norm.gamma, norm.beta


def is_observed() -> bool:
    """Whether a dispatch mode looks at every operation: a tracer, fake tensors, a FLOP counter (told its formulas)."""
    if torch._C._len_torch_dispatch_stack() == 0:
        return False
    flops.register()
    return True


def autograd_function(operation: Any) -> Callable[..., Any]:
    """The operation with these arguments as an autograd function: as if registered, but cheaper to call."""
    members = {"forward": _forward(operation), "setup_context": _setup(operation), "backward": operation.gradients}
    function: Any = type(
        operation.__name__, (torch.autograd.Function,), {name: staticmethod(part) for name, part in members.items()}
    )
    return function.apply  # type: ignore[no-any-return]


def _run(registered: Any, d: Tensor, arguments: Any) -> Any:
    """Computes a gradient: by the registered operation under a compiler, a dispatch mode, or for double backward."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or is_observed() or type(d) is not Tensor:
        return registered(*arguments)
    return arguments.run()


def _gradients(operation: Any, **gradients: Tensor | None) -> Gradients:
    """One for each argument: those given by name, None for the others."""
    return tuple(gradients.get(name) for name in operation._fields)


def _forward(operation: Any) -> Any:
    return lambda *arguments: operation(*arguments).run()


def _setup(operation: Any) -> Any:
    return lambda ctx, inputs, output: operation(*inputs).save(ctx, output)


def _no_double_backward(*_: Any) -> None:
    raise RuntimeError('the fast engine does not support double backward; use set_engine("plain")')


def _register(name: str, operation: Any) -> Any:
    """``torch.ops.convmixer.NAME`` for an operation with these arguments.

    Not by ``torch.library.custom_op``, which imports the compiler, more than a second, at the operation's first call.
    """
    function, hints = _forward(operation), get_type_hints(operation)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(field, kind, annotation=hints[field]) for field in operation._fields]
    result = get_type_hints(operation.run)["return"]
    function.__signature__ = inspect.Signature(parameters, return_annotation=result)
    schema = torch.library.infer_schema(function, mutates_args=())
    qualified = f"convmixer::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "default", function)
    torch.library.register_fake(qualified, lambda *arguments: operation(*arguments).fake())
    if hasattr(operation, "gradients"):
        torch.library.register_autograd(qualified, operation.gradients, setup_context=_setup(operation))
    else:
        torch.library.register_autograd(qualified, _no_double_backward)
    return getattr(torch.ops.convmixer, name).default


act_norm = _register("act_norm", ActNormArguments)
act_norm_backward = _register("act_norm_backward", ActNormBackwardArguments)
act_norm_depthwise = _register("act_norm_depthwise", ActNormDepthwiseArguments)
act_norm_depthwise_backward = _register("act_norm_depthwise_backward", ActNormDepthwiseBackwardArguments)
depthwise = _register("depthwise", DepthwiseArguments)
depthwise_weight_gradient = _register("depthwise_weight_gradient", DepthwiseWeightGradientArguments)
pointwise = _register("pointwise", PointwiseArguments)
