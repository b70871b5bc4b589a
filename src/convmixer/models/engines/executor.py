"""The engine of one model: which one is set, what it remembers between passes, and a pass with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from convmixer.config import Engine
from convmixer.errors import InputError, nearest
from convmixer.models.engines import fast, plain
from convmixer.models.engines.auto import AutoChoice, Choice
from convmixer.models.engines.planned import Planned
from convmixer.models.engines.prepared import PreparedWeights
from convmixer.models.engines.units import Network

if TYPE_CHECKING:
    from convmixer.models.convmixer import ConvMixer

_default_engine: Engine | None = None


def set_default_engine(engine: Engine | None) -> None:
    """Chooses what ``engine="auto"`` means for models made, or told to use it, from now on.

    With "plain" nothing is measured and no kernel is built. None goes back to the environment variable
    ``CONVMIXER_ENGINE`` if it is set, else to measuring.

    Raises:
        InputError: unknown engine.
    """
    global _default_engine
    _default_engine = None if engine is None else _known_engine(engine, "`engine`")


def _known_engine(engine: str, where: str) -> Engine:
    if engine not in get_args(Engine):
        raise InputError(f"{where}: {engine!r} is unknown; {nearest(engine, get_args(Engine))}")
    return engine  # type: ignore[return-value]


class Executor:
    """Runs a network with the engine set here. It holds no parameters; copies and pickles keep the setting."""

    def __init__(self) -> None:
        self.engine: Engine = "auto"
        self.recompute = False  # blocks in the backward pass, instead of keeping what they computed
        self.prepared: PreparedWeights | None = None
        self.planned: Planned | None = None
        self.auto = AutoChoice()

    def set_engine(self, engine: Engine) -> None:
        """See :meth:`ConvMixer.set_engine`."""
        self.engine = _known_engine(engine, "`engine`")
        if engine == "auto":
            variable = os.environ.get("CONVMIXER_ENGINE", "auto")
            self.engine = _default_engine or _known_engine(variable, "CONVMIXER_ENGINE")

    def engine_for(self, network: Network, x: Tensor, captured: bool = False) -> Choice:
        """What a pass on x runs as. Exported and traced programs are always plain: they run without this package."""
        if self.engine == "plain" or torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return "plain"
        if self.engine == "auto":
            return self.auto.choose(network, x, captured)
        return "fast" if fast.can_run(network, x) else "plain"

    def planned_logits(self, model: ConvMixer, x: Tensor) -> Tensor | None:
        """Images (N, C, H, W) → logits in one native call; None where that is not what is to be done."""
        if self.planned is None or self.engine == "plain" or model.training or torch.is_grad_enabled():
            return None
        return None if torch.is_autocast_enabled(x.device.type) else self.planned.logits(model, x)

    def feature_maps(self, network: Network, x: Tensor) -> Tensor:
        """Images (N, C, H, W) → feature maps (N, h, H', W')."""
        recompute = self.recompute and torch.is_grad_enabled()
        if self.engine_for(network, x) == "plain":
            return plain.feature_maps(network, x, recompute)
        return fast.feature_maps(network, x, self._prepared(network), recompute)

    def pooled(self, network: Network, x: Tensor) -> Tensor:
        """Images (N, C, H, W) → pooled features (N, h)."""
        recompute = self.recompute and torch.is_grad_enabled()
        if self.engine_for(network, x) == "plain":
            return plain.pooled(network, x, recompute)
        return fast.pooled(network, x, self._prepared(network), recompute)

    def _prepared(self, network: Network) -> PreparedWeights | None:
        if self.prepared is None or network.training or torch.is_grad_enabled():
            return None
        return self.prepared.refresh((network.stem, network.blocks))
