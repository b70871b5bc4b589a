"""What to measure: the competitors, which are ways to run the same network, and on which sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from convmixer.config import Engine
from convmixer.errors import InputError, nearest
from convmixer.presets import model_preset

What = Literal["train", "infer"]


@dataclass(frozen=True)
class Setting:
    """One way to run a network; all of them compute the same, in the precision named."""

    engine: Engine = "plain"
    channels_last: bool = False
    compile: bool = False
    bf16: bool = False
    tuned_allocator: bool = True
    timm: bool = False


REFERENCE = "plain"
"""The setting that ratios refer to: what the authors' script does."""

SETTINGS: dict[str, Setting] = {
    REFERENCE: Setting(tuned_allocator=False),
    "plain+allocator": Setting(),
    "channels_last": Setting(channels_last=True),
    "compile": Setting(compile=True),
    "channels_last+compile": Setting(channels_last=True, compile=True),
    "bf16": Setting(bf16=True),
    "channels_last+bf16": Setting(channels_last=True, bf16=True),
    "timm": Setting(timm=True, tuned_allocator=False),
    "fast": Setting(engine="fast"),
    "fast+bf16": Setting(engine="fast", bf16=True),
    "auto": Setting(engine="auto"),
    "auto+bf16": Setting(engine="auto", bf16=True),
}


@dataclass(frozen=True)
class BenchConfig:
    """What to measure."""

    models: tuple[str, ...] = ("convmixer_256_8_k9", "convmixer_256_8_k5")
    """Presets."""
    what: tuple[What, ...] = ("train", "infer")
    """A training step (forward, loss, backward, AdamW), inference, or both."""
    batch_sizes: tuple[int, ...] = (128,)
    """Images in a batch."""
    image_size: int = 32
    """Side of the images in pixels."""
    settings: tuple[str, ...] = tuple(SETTINGS)
    """Competitors; plain, which ratios refer to, is always among them."""
    rounds: int = 5
    """Measurements of each; every round runs all competitors in turn."""
    threads: int | None = None
    """Threads of each competitor; PyTorch's own number by default."""

    def __post_init__(self) -> None:
        for name in self.settings:
            if name not in SETTINGS:
                raise InputError(f"--settings: {name!r} is unknown; {nearest(name, SETTINGS)}")
        for name in self.models:
            model_preset(name)
        if min(*self.batch_sizes, self.image_size, self.rounds, self.threads or 1) < 1:
            raise InputError("bench: batch sizes, image size, rounds and threads have to be at least 1.")
