"""ConvMixer: patch embedding, blocks of depthwise and pointwise convolutions, pooling, classifier.

Trockman and Kolter, "Patches Are All You Need?", arXiv 2201.09792, section 2. Submodules are named as in timm
(``stem``, ``blocks``, ``head``), so that its weights load as they are.

Shapes: N images, C channels, H × W pixels; p = patch size, h = hidden dimension; H' = H // p, W' = W // p.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import nn

from convmixer.config import Engine, ModelConfig, PerBlock
from convmixer.errors import InputError, nearest
from convmixer.models.blocks import Residual
from convmixer.models.engines.executor import Executor
from convmixer.models.engines.planned import Planned
from convmixer.models.engines.prepared import PreparedWeights
from convmixer.models.engines.recompute import recomputed
from convmixer.parts.branches import BRANCHES, Activation, conv_unit
from convmixer.parts.freezing import frozen_modules
from convmixer.parts.heads import HEADS

_POOLINGS = {"avg": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}


class ConvMixer(nn.Module):
    """The paper's network, with other heads and residual branches to choose from.

    Args:
        dim: hidden dimension h.
        depth: number of blocks.
        kernel_size: side of the depthwise kernels in positions, odd; one number, or one for each block.
        patch_size: side of the patches in pixels. Pixels beyond the last whole patch are not seen.
        n_classes: outputs; 0 for none (the pooled features are returned).
        in_channels: C of the images.
        head: the classifier, a name in :data:`convmixer.parts.heads.HEADS`.
        branch: the blocks' residual branch, a name in :data:`convmixer.parts.branches.BRANCHES`.
        activation: "gelu" (the paper) or "relu".
        bottleneck_factor: how many times narrower the bottleneck branch is; other branches ignore it.
        dropout: probability in front of the head.
        drop_path: stochastic depth; the drop probability rises linearly from 0 in the first block to this in the last.
        engine: see :meth:`set_engine`.

    Attributes:
        config: the architecture, as given here.
        n_classes: outputs.
        num_features: h, the size of the pooled features.
        default_cfg: timm's description of a model; for a preset also input_size (C, H, W), mean and std.

    Raises:
        InputError: unknown name or impossible value, see :class:`convmixer.config.ModelConfig`.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        kernel_size: PerBlock = 5,
        patch_size: int = 2,
        n_classes: int = 10,
        *,
        in_channels: int = 3,
        head: str = "linear",
        branch: str = "depthwise",
        activation: Activation = "gelu",
        bottleneck_factor: int = 2,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        engine: Engine = "auto",
    ) -> None:
        super().__init__()
        self.config = ModelConfig(
            head=head,
            branch=branch,
            dim=dim,
            depth=depth,
            kernel_size=kernel_size,
            patch_size=patch_size,
            activation=activation,
            bottleneck_factor=bottleneck_factor,
            dropout=dropout,
            drop_path=drop_path,
        )
        if in_channels < 1:
            raise InputError(f"`in_channels`: {in_channels} is out of range; give at least 1.")
        self.num_features = dim
        self.patch_size = patch_size
        self._executor = Executor()
        self._frozen: tuple[str, ...] = ()
        self.default_cfg: dict[str, Any] = {
            "architecture": "convmixer",
            "num_classes": n_classes,
            "first_conv": "stem.0",
            "classifier": "head",
        }
        self.set_engine(engine)
        patches = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.stem = nn.Sequential(*conv_unit(patches, activation))
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    Residual(BRANCHES[branch].build(block), drop_path * i / max(depth - 1, 1)),
                    *conv_unit(nn.Conv2d(dim, dim, kernel_size=1), activation),
                )
                for i, block in enumerate(self.config.blocks())
            )
        )
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head_drop = nn.Dropout(dropout)
        self.reset_classifier(n_classes)

    def set_engine(self, engine: Engine) -> None:
        """Chooses how the model is executed from now on; parameters, state and results stay the same.

        Args:
            engine: "plain", PyTorch's own modules. "fast", the fused kernels; what they do not cover runs as the plain
                module. "auto", for each shape of input the one that is measured, once on a machine, to be faster; or
                what :func:`set_default_engine` says instead.
        """
        self._executor.set_engine(engine)

    @property
    def engine(self) -> Engine:
        """As :meth:`set_engine` set it."""
        return self._executor.engine

    def engine_for(self, x: torch.Tensor, *, captured: bool = False) -> Literal["plain", "fast"]:
        """What a forward pass on x runs as in the present mode and autocast state: "plain" or "fast".

        Args:
            x: images (N, C, H, W).
            captured: whether passes will be replayed from a CUDA graph, where launching operations takes no time.
        """
        return self._executor.engine_for(self, x, captured)

    def fuse(self) -> Self:
        """Prepares for inference with the fast engine and returns the model; parameters and state stay as they are.

        What depends on the weights alone is computed once for each precision: batch normalisations become a factor and
        a summand of each channel, weights are converted. This is exact, and the fused operations apply factor and
        summand to values they hold anyway. Nothing is multiplied into convolutions, which would not be exact here:
        every normalisation comes behind an activation, and what follows it is a residual sum, of which it scales one
        term only, or a zero-padded convolution, whose border it would shift.

        In float32 on a CPU the whole network becomes one native call (:mod:`convmixer.kernels.plan`), which gives the
        same to rounding. It takes effect in ``eval()`` without gradients; changes of the weights are noticed.
        :meth:`unfuse` undoes it.
        """
        self._executor.prepared = PreparedWeights(keep=True)
        self._executor.planned = Planned()
        return self

    def unfuse(self) -> Self:
        """Undoes :meth:`fuse` and returns the model."""
        self._executor.prepared = self._executor.planned = None
        return self

    @torch.no_grad()
    def init_residual_gamma(self, gamma: float) -> Self:
        """Sets the weight γ of the batch normalisation that ends each residual branch, and returns the model.

        Call before training: with less than 1 the branches are down-weighted at initialisation. Goyal et al.,
        arXiv 1706.02677, section 5.1, use 0.
        """
        for branch in (module.fn for module in self.modules() if isinstance(module, Residual)):
            norms = [module for module in branch.modules() if isinstance(module, nn.BatchNorm2d)]
            for last in norms[-1:]:  # a custom branch may have none
                last.weight.fill_(gamma)
        return self

    def freeze(self, parts: str = "features") -> Self:
        """Excludes parts from training, and returns the model: no gradients, batch statistics stay as they are.

        Args:
            parts: names between commas: stem, blocks (all), blocks.2, blocks.0-3, head, or features (stem and blocks);
                "" for none. What was frozen before and is not named is trained again.

        Raises:
            InputError: an unknown part, or a block that does not exist.
        """
        names = frozen_modules(parts, len(self.blocks))
        self._frozen = names
        self.requires_grad_(True)
        for name in names:
            self.get_submodule(name).requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As in PyTorch; frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self

    @property
    def num_classes(self) -> int:
        """``n_classes`` by timm's name."""
        return self.n_classes

    def reset_classifier(self, n_classes: int, global_pool: str | None = None) -> None:
        """Replaces the head by a new one, with fresh weights.

        Args:
            n_classes: outputs; 0 for none.
            global_pool: "avg" or "max", to change the pooling as well.

        Raises:
            InputError: ``n_classes`` below 0, or unknown pooling.
        """
        if n_classes < 0:
            raise InputError(f"`n_classes`: {n_classes} is out of range; give at least 0.")
        if global_pool is not None:
            if global_pool not in _POOLINGS:
                raise InputError(f"`global_pool`: {global_pool!r} is unknown; {nearest(global_pool, _POOLINGS)}")
            self.pooling = nn.Sequential(_POOLINGS[global_pool](1), nn.Flatten())
        self.n_classes = n_classes
        head = HEADS[self.config.head](self.num_features, n_classes) if n_classes else nn.Identity()
        weight = next(self.stem.parameters())
        self.head = head.to(device=weight.device, dtype=weight.dtype).train(self.training)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that group parameters by layer, for timm's layer-wise learning rates."""
        return {"stem": r"^stem", "blocks": r"^blocks\.(\d+)"}

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """``default_cfg``, by timm's newer name."""
        return self.default_cfg

    @pretrained_cfg.setter
    def pretrained_cfg(self, values: dict[str, Any]) -> None:
        self.default_cfg = values

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """For each block, as in timm: its channels, how much smaller than the image its maps are, and its name."""
        return [
            {"num_chs": self.num_features, "reduction": self.patch_size, "module": f"blocks.{i}"}
            for i in range(len(self.blocks))
        ]

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) → feature maps (N, h, H', W')."""
        return self._executor.feature_maps(self, x)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps only the blocks' inputs for the backward pass, which computes the rest again: less memory, more time.

        Gradients, random numbers and running statistics stay exactly the same, with either engine.
        """
        self._executor.recompute = enable

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """The feature maps (N, h, H', W') behind some blocks, as in timm; runs as the plain modules.

        Args:
            x: images (N, C, H, W).
            indices: which blocks, counted from 0, negative ones from the end; a number for that many last ones; None
                for all.
            stop_early: skip the blocks after the last one asked for.
            intermediates_only: return the list alone.

        Returns:
            The last feature maps that were computed, and the list, in the order of the blocks.

        Raises:
            InputError: a block that does not exist.
        """
        depth = len(self.blocks)
        if isinstance(indices, int):
            chosen = set(range(depth - indices, depth))
        else:
            chosen = {i + depth * (i < 0) for i in (range(depth) if indices is None else indices)}
        if not chosen <= set(range(depth)):
            raise InputError(f"`indices`: {indices} asks for blocks that do not exist; there are {depth}.")
        recompute = self._executor.recompute and torch.is_grad_enabled()
        maps, intermediates = self.stem(x), []
        for i, block in enumerate(self.blocks):
            if stop_early and i > max(chosen, default=-1):
                break
            maps = recomputed(block, maps, block) if recompute else block(maps)
            if i in chosen:
                intermediates.append(maps)
        return intermediates if intermediates_only else (maps, intermediates)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Feature maps (N, h, H', W') → logits (N, n_classes), or pooled features (N, h) with ``pre_logits``."""
        x = self.head_drop(self.pooling(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) → logits (N, n_classes)."""
        if (planned := self._executor.planned_logits(self, x)) is not None:
            return planned
        logits: torch.Tensor = self.head(self.head_drop(self._executor.pooled(self, x)))
        return logits

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a folder as Hugging Face and timm have it; see :func:`convmixer.models.pretrained.save_pretrained`."""
        from convmixer.models.pretrained import save_pretrained

        save_pretrained(self, folder)

    @staticmethod
    def from_pretrained(source: str | Path, *, revision: str | None = None, engine: Engine = "auto") -> ConvMixer:
        """The model in such a folder, or on the hub; see :func:`convmixer.models.pretrained.from_pretrained`."""
        from convmixer.models.pretrained import from_pretrained

        return from_pretrained(source, revision=revision, engine=engine)

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Uploads such a folder; see :func:`convmixer.models.pretrained.push_to_hub`."""
        from convmixer.models.pretrained import push_to_hub

        return push_to_hub(self, repository, private=private)
