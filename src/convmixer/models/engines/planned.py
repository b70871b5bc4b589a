"""A fused model as one native call, as long as it is what its configuration says and its weights stay the same."""

from __future__ import annotations

import itertools
import operator
from collections.abc import ValuesView
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from convmixer.kernels import dispatch, plan, registered
from convmixer.kernels.plan import Plan
from convmixer.parts.plans import network_layers

if TYPE_CHECKING:
    from convmixer.models.convmixer import ConvMixer

_version, _training = operator.attrgetter("_version"), operator.attrgetter("training")


class Planned:
    """The plan of one model, made when it is first needed and again when the model has changed."""

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._modules: list[nn.Module] = []
        self._tensors: list[Tensor] = []
        self._counting: list[Tensor] = []
        self._hooks: list[dict[int, Any]] = []
        self._empty: list[dict[str, Any]] = []
        self._held: list[ValuesView[Any]] = []
        self._values: list[Any] = []
        self._stamp: tuple[list[int], ...] = ()

    def __reduce__(self) -> tuple[type[Planned], tuple[()]]:
        return Planned, ()  # copies and pickles make their own

    def logits(self, model: ConvMixer, x: Tensor) -> Tensor | None:
        """Images (N, C, H, W) → logits (N, n_classes) float32; None where the plan does not cover them.

        It covers float32 images on a CPU, in evaluation mode without gradients, and a network that is as its
        configuration says: no other modules in it, and no hooks.
        """
        if x.dtype != torch.float32 or type(x) is not Tensor or x.dim() != 4 or not x.is_cpu or _is_observed():
            return None
        if not self._stamp or self._is_changed():
            self._make(model)
        if self._plan is None or any(self._hooks) or any(map(_training, self._modules)):
            return None
        if x.shape[1] != self._plan.channels or min(x.shape[2:]) < self._plan.patch_size:
            return None  # the modules say what is wrong
        dispatch.note("network", "native")
        return torch.from_numpy(self._plan.run(x.detach().numpy(), torch.get_num_threads()))

    def _is_changed(self) -> bool:
        """Whether a module, a parameter, a buffer or its values were replaced, by loops that are not Python's."""
        if any(self._empty) or sum(map(len, self._held)) != len(self._values):
            return True
        same = all(map(operator.is_, itertools.chain.from_iterable(self._held), self._values))
        return not same or self._now() != self._stamp

    def _now(self) -> tuple[list[int], ...]:
        """What changes with the tensors' values."""
        return list(map(_version, self._counting)), list(map(Tensor.data_ptr, self._tensors))

    def _make(self, model: ConvMixer) -> None:
        self._modules = list(model.modules())
        self._hooks = [hooks for m in self._modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self._tensors = [*model.parameters(), *model.buffers()]
        self._counting = [t for t in self._tensors if not t.is_inference()]  # the others have no versions
        parts = [held for m in self._modules for held in (m._parameters, m._buffers, m._modules)]
        self._empty, self._held = [held for held in parts if not held], [held.values() for held in parts if held]
        self._values = list(itertools.chain.from_iterable(self._held))
        self._stamp, self._plan = self._now(), None
        if _is_as_configured(model):
            self._plan = plan_of(model)


def plan_of(model: ConvMixer) -> Plan | None:
    """The plan of a model that is as its configuration says; None where a part has none, or there are no kernels."""
    if plan.library() is None:
        return None
    config, head = model.config, model.config.head if model.n_classes else ""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if tensor.dim()}
    layers = network_layers(config.blocks(), config.branch, head, state)
    return None if layers is None else Plan(layers, _channels(model), model.patch_size)


def _is_observed() -> bool:
    """Whether somebody has to see the operations of a pass: a compiler, an exporter, a counter of operations."""
    observed = torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return bool(observed or registered.is_observed())


def _is_as_configured(model: ConvMixer) -> bool:
    """Whether a model has the very modules that its configuration describes, in float32 on the CPU."""
    from convmixer.models.factory import build_model

    if any(t.dtype != torch.float32 for t in model.parameters()) or not all(t.is_cpu for t in model.parameters()):
        return False
    channels = _channels(model)
    if not channels or type(model.pooling[0]) is not nn.AdaptiveAvgPool2d:
        return False
    with torch.device("meta"):
        built = build_model(model.config, max(model.n_classes, 1), channels, "plain")
        built.reset_classifier(model.n_classes)
    return _description(model) == _description(built)


def _channels(model: ConvMixer) -> int:
    """Of its images; 0 if its stem is another one."""
    first = model.stem[0]
    return first.in_channels if isinstance(first, nn.Conv2d) else 0


def _description(model: nn.Module) -> list[tuple[str, type, str]]:
    return [(name, type(module), module.extra_repr()) for name, module in model.named_modules()]
