"""The competitors: ways to run the same network."""

from __future__ import annotations

from dataclasses import dataclass

from convmixer.config import Engine


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
    "plain, tuned allocator": Setting(),
    "channels_last": Setting(channels_last=True),
    "compile": Setting(compile=True),
    "channels_last, compile": Setting(channels_last=True, compile=True),
    "bf16": Setting(bf16=True),
    "channels_last, bf16": Setting(channels_last=True, bf16=True),
    "timm": Setting(timm=True, tuned_allocator=False),
    "fast": Setting(engine="fast"),
    "fast, bf16": Setting(engine="fast", bf16=True),
    "auto": Setting(engine="auto"),
    "auto, bf16": Setting(engine="auto", bf16=True),
}
