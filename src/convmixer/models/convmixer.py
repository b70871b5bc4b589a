"""ConvMixer: patch embedding, blocks of depthwise and pointwise convolutions, pooling, classifier.

Trockman and Kolter, "Patches Are All You Need?", arXiv 2201.09792, section 2. Submodules are named as in timm
(``stem``, ``blocks``, ``head``), so that its weights load as they are.

Shapes: N images, C channels, H × W pixels; p = patch size, h = hidden dimension; H' = H // p, W' = W // p.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from torch import nn

from convmixer.config import Activation, Engine
from convmixer.errors import InputError, nearest
from convmixer.models.blocks import ACTIVATIONS, BranchFactory, Residual, conv_unit, depthwise_branch
from convmixer.models.classifiers import HeadFactory, linear_head
from convmixer.models.engines.executor import Executor
from convmixer.models.engines.prepared import PreparedWeights


class ConvMixer(nn.Module):
    """The paper's network; ``head`` and ``branch`` are the two parts that the study's variants exchange.

    Args:
        dim: hidden dimension h.
        depth: number of blocks.
        kernel_size: side of the depthwise kernels in positions; odd.
        patch_size: side of the patches in pixels. Pixels beyond the last whole patch are not seen.
        n_classes: outputs; 0 for none (the pooled features are returned).
        in_channels: C of the images.
        activation: "gelu" (the paper) or "relu".
        dropout: probability in front of the head.
        drop_path: stochastic depth; the drop probability rises linearly from 0 in the first block to this in the last.
        head: makes the classifier from (dim, n_classes).
        branch: makes a block's residual branch from (dim, kernel_size, activation class).
        engine: see :meth:`set_engine`.

    Raises:
        InputError: even kernel size, sizes below 1, or an unknown activation.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        kernel_size: int = 5,
        patch_size: int = 2,
        n_classes: int = 10,
        *,
        in_channels: int = 3,
        activation: Activation = "gelu",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head: HeadFactory = linear_head,
        branch: BranchFactory = depthwise_branch,
        engine: Engine = "auto",
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "depth": depth, "kernel_size": kernel_size, "patch_size": patch_size}
        for name, value in {**sizes, "in_channels": in_channels}.items():
            if value < 1:
                raise InputError(f"{name} is {value}; give at least 1.")
        if kernel_size % 2 == 0:
            raise InputError(f"kernel_size is {kernel_size}; only an odd kernel has a centre, give an odd number.")
        if activation not in ACTIVATIONS:
            raise InputError(f"activation {activation!r} is unknown; {nearest(activation, ACTIVATIONS)}")
        act = ACTIVATIONS[activation]
        self.num_features = dim
        self.patch_size = patch_size
        self._make_head = head
        self._executor = Executor()
        self.set_engine(engine)
        patches = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.stem = nn.Sequential(*conv_unit(patches, act))
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    Residual(branch(dim, kernel_size, act), rate),
                    *conv_unit(nn.Conv2d(dim, dim, kernel_size=1), act),
                )
                for rate in rates
            )
        )
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head_drop = nn.Dropout(dropout)
        self.reset_classifier(n_classes)

    def set_engine(self, engine: Engine) -> None:
        """Chooses how the model is executed from now on; parameters, state and results stay the same.

        Args:
            engine: "plain", PyTorch's own modules. "fast", the fused kernels; what they do not cover runs as the plain
                module. "auto", for each shape of input the one that is measured, once on a machine, to be faster.
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

        It takes effect in ``eval()`` without gradients; changes of the weights are noticed. :meth:`unfuse` undoes it.
        """
        self._executor.prepared = PreparedWeights(keep=True)
        return self

    def unfuse(self) -> Self:
        """Undoes :meth:`fuse` and returns the model."""
        self._executor.prepared = None
        return self

    @torch.no_grad()
    def weigh_branches(self, gamma: float) -> Self:
        """Sets the weight γ of the normalisation that ends each residual branch, and returns the model.

        That is for a model that has not been trained: below 1 its blocks begin nearer to their pointwise half alone.
        Goyal et al., arXiv 1706.02677, section 5.1, begin with 0.
        """
        for branch in (module.fn for module in self.modules() if isinstance(module, Residual)):
            norms = [module for module in branch.modules() if isinstance(module, nn.BatchNorm2d)]
            for last in norms[-1:]:  # a branch of somebody's own may have none
                last.weight.fill_(gamma)
        return self

    def reset_classifier(self, n_classes: int) -> None:
        """Replaces the head by a new one, with fresh weights, for ``n_classes`` classes; 0 for none."""
        if n_classes < 0:
            raise InputError(f"n_classes is {n_classes}; give at least 0.")
        self.n_classes = n_classes
        head = self._make_head(self.num_features, n_classes) if n_classes else nn.Identity()
        weight = next(self.stem.parameters())
        self.head = head.to(device=weight.device, dtype=weight.dtype).train(self.training)

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) → feature maps (N, h, H', W')."""
        return self._executor.feature_maps(self, x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Feature maps (N, h, H', W') → logits (N, n_classes), or pooled features (N, h) with ``pre_logits``."""
        x = self.head_drop(self.pooling(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) → logits (N, n_classes)."""
        logits: torch.Tensor = self.head(self.head_drop(self._executor.pooled(self, x)))
        return logits
