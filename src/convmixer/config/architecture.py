"""The network of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from convmixer.config.fields import PerBlock, Positive, Probability
from convmixer.errors import nearest
from convmixer.parts.branches import BRANCHES, Activation, Block
from convmixer.parts.heads import HEADS
from convmixer.records import Checked


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """The architecture. Number of classes and image channels come from the data."""

    head: str = "linear"
    """Classifier behind the pooling: linear (the paper's), rh, lc, or another one that `convmixer models` lists."""
    branch: str = "depthwise"
    """Residual branch of the blocks: depthwise (the paper's), bottleneck, or another one that `convmixer models`
    lists."""
    dim: Positive = 256
    """Hidden dimension h: channels of every block (alias: --hidden-dim)."""
    depth: Annotated[int, Meta(ge=1, le=10_000)] = 8
    """Number of ConvMixer blocks."""
    kernel_size: PerBlock = 9
    """Side of the depthwise kernels in positions, odd; one number, or one for each block as in 9,9,5,5."""
    patch_size: Positive = 2
    """Side of the patches in pixels; it has to divide the image size."""
    activation: Activation = "gelu"
    """Nonlinearity after every convolution."""
    bottleneck_factor: Positive = 2
    """How many times narrower the bottleneck branch is; other branches ignore it."""
    dropout: Probability = 0.0
    """Dropout probability in front of the classifier."""
    drop_path: Probability = 0.0
    """Stochastic depth: drop probability of the last block's residual branch, rising linearly from 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.kernel_size, tuple) and len(set(self.kernel_size)) == 1:
            object.__setattr__(self, "kernel_size", self.kernel_size[0])

    def _problems(self) -> Iterator[str]:
        for name, registry in (("head", HEADS), ("branch", BRANCHES)):
            if (value := getattr(self, name)) not in registry:
                yield f"`{name}`: {value!r} is unknown; {nearest(value, registry)}"
        given = self.kernel_size
        if isinstance(given, tuple) and len(given) != self.depth:
            yield (
                f"`kernel_size`: {per_block_text(given)} has {len(given)} numbers, but `depth` is {self.depth}; "
                "give one number, or one for each block."
            )
        kernels = (given,) if isinstance(given, int) else tuple(dict.fromkeys(given))
        for k in kernels:
            if k % 2 == 0:
                neighbours = f"choose {k - 1 or 1} or {k + 1}"
                yield f"`kernel_size`: {k} is even, and only an odd kernel has a centre; {neighbours}."
        blocks = (Block(self.dim, k, self.bottleneck_factor, self.activation) for k in kernels)  # the different ones
        yield from filter(None, map(BRANCHES[self.branch].problem, blocks))

    def blocks(self) -> tuple[Block, ...]:
        """The sizes of each block."""
        kernels = (self.kernel_size,) * self.depth if isinstance(self.kernel_size, int) else self.kernel_size
        return tuple(Block(self.dim, kernel, self.bottleneck_factor, self.activation) for kernel in kernels)


def per_block_text(value: PerBlock) -> str:
    """``9`` or ``9,9,5,5``, as the command line takes it."""
    return str(value) if isinstance(value, int) else ",".join(map(str, value))
