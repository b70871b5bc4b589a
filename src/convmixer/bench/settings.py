"""What to measure: the competitors, which are ways to run the same network, and on which sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from convmixer.config import Engine, Positive
from convmixer.errors import InputError, nearest
from convmixer.presets import model_preset
from convmixer.records import Checked

Work = Literal["train", "infer"]
What = Literal[Work, "augment"]
Storage = Literal["float32", "bfloat16", "float16"]
Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Setting:
    """One way to run a network; all of them compute the same, in the precision named."""

    engine: Engine = "plain"
    precision: Storage = "float32"
    """What autocast computes and stores in; training in float16 scales the loss."""
    channels_last: bool = False
    compile: bool = False
    graph: bool = False
    """The whole step is captured once as a CUDA graph and replayed."""
    tuned: bool = True
    """With what costs a script one line: memory is kept on a CPU, cuDNN searches for its algorithms on a GPU."""
    timm: bool = False
    runtime: str = ""
    """Another runtime than PyTorch, see :mod:`convmixer.bench.rivals`; for inference only."""
    devices: tuple[Kind, ...] = ("cpu", "cuda")
    """Where it is measured."""

    def does(self, what: Work) -> bool:
        """Whether it is a way to do this work."""
        return what == "infer" or not self.runtime


REFERENCE = "plain"
"""The setting that ratios refer to: what the authors' script does on a CPU."""
REFERENCE_FP16 = "plain+fp16"
"""What the authors' script does on a GPU."""

_CPU: tuple[Kind, ...] = ("cpu",)
_CUDA: tuple[Kind, ...] = ("cuda",)

SETTINGS: dict[str, Setting] = {
    REFERENCE: Setting(tuned=False),
    REFERENCE_FP16: Setting(precision="float16", tuned=False, devices=_CUDA),
    "plain+allocator": Setting(devices=_CPU),
    "channels_last": Setting(channels_last=True, devices=_CPU),
    "compile": Setting(compile=True, devices=_CPU),
    "channels_last+compile": Setting(channels_last=True, compile=True, devices=_CPU),
    "bf16": Setting(precision="bfloat16"),
    "channels_last+fp16": Setting(precision="float16", channels_last=True, devices=_CUDA),
    "channels_last+bf16": Setting(precision="bfloat16", channels_last=True),
    "compile+bf16": Setting(precision="bfloat16", compile=True, devices=_CUDA),
    "channels_last+compile+bf16": Setting(precision="bfloat16", channels_last=True, compile=True, devices=_CUDA),
    "plain+graph+bf16": Setting(precision="bfloat16", graph=True, devices=_CUDA),
    "channels_last+graph+bf16": Setting(precision="bfloat16", channels_last=True, graph=True, devices=_CUDA),
    "timm": Setting(timm=True, tuned=False, devices=_CPU),
    "timm+bf16": Setting(precision="bfloat16", timm=True, devices=_CUDA),
    "timm+compile+bf16": Setting(precision="bfloat16", timm=True, compile=True, devices=_CUDA),
    "timm+channels_last+compile+bf16": Setting(
        precision="bfloat16", timm=True, channels_last=True, compile=True, devices=_CUDA
    ),
    "native": Setting(engine="fast", runtime="native", devices=_CPU),
    "onnxruntime": Setting(runtime="onnxruntime", devices=_CPU),
    "openvino": Setting(runtime="openvino", devices=_CPU),
    "openvino+bf16": Setting(runtime="openvino", precision="bfloat16", devices=_CPU),
    "fast": Setting(engine="fast"),
    "fast+bf16": Setting(engine="fast", precision="bfloat16"),
    "fast+graph+bf16": Setting(engine="fast", precision="bfloat16", graph=True, devices=_CUDA),
    "auto": Setting(engine="auto", devices=_CPU),
    "auto+bf16": Setting(engine="auto", precision="bfloat16"),
}


@dataclass(frozen=True)
class BenchConfig(Checked):
    """What to measure."""

    models: tuple[str, ...] = ("convmixer_256_8_k9", "convmixer_256_8_k5")
    """Presets."""
    what: tuple[What, ...] = ("train", "infer")
    """A training step (forward, loss, backward, AdamW), inference (infer), preparing the images (augment)."""
    batch_sizes: tuple[Positive, ...] = (128,)
    """Images in a batch."""
    image_size: Positive = 32
    """Side of the images in pixels."""
    settings: tuple[str, ...] = ()
    """Competitors; by default all that there are for the device. Plain, which ratios refer to, is always among them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to measure; auto takes a GPU if there is one."""
    rounds: Positive = 5
    """Measurements of each; every round runs all competitors in turn."""
    threads: Positive | None = None
    """Threads of each competitor; PyTorch's own number by default."""
    time_limit: Annotated[float, Meta(gt=0)] = 240.0
    """Seconds that a competitor may take to become ready, compiling included; then it is left out."""

    def _problems(self) -> Iterator[str]:
        for name in self.settings:
            if name not in SETTINGS:
                yield f"`settings`: {name!r} is unknown; {nearest(name, SETTINGS)}"
        for name in self.models:
            model_preset(name)

    @property
    def work(self) -> tuple[Work, ...]:
        """What of ``what`` networks do."""
        return tuple(what for what in self.what if what != "augment")

    def chosen(self, kind: Kind) -> dict[str, Setting]:
        """The settings to measure on this kind of device, the reference first.

        Raises:
            InputError: one that was asked for does not exist there.
        """
        there = {name: setting for name, setting in SETTINGS.items() if kind in setting.devices}
        for name in self.settings:
            if name not in there:
                raise InputError(f"--settings: {name!r} is not measured on {kind}; {nearest(name, there)}")
        names = dict.fromkeys([REFERENCE, *(self.settings or there)])
        return {name: there[name] for name in names}
