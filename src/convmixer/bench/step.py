"""One competitor's network and the step that is measured: what a worker, the sweep and ``--explain`` run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F

from convmixer.bench.rivals import infer_step
from convmixer.bench.settings import SETTINGS, Kind, Setting, Work
from convmixer.config import ModelConfig
from convmixer.models import ConvMixer, build_model
from convmixer.presets import model_preset
from convmixer.runtime.device import autocast


@dataclass(frozen=True)
class Job:
    """What is measured."""

    what: Work
    model: str
    """Name for people; the network is ``architecture``."""
    architecture: ModelConfig
    n_classes: int
    batch_size: int
    image_size: int
    setting: str
    """A key of SETTINGS."""
    device: Kind
    threads: int

    @classmethod
    def of_preset(
        cls, what: Work, model: str, batch_size: int, image_size: int, setting: str, device: Kind, threads: int
    ) -> Self:
        """A job for the preset called ``model``."""
        preset = model_preset(model)
        return cls(what, model, preset.architecture, preset.n_classes, batch_size, image_size, setting, device, threads)

    @property
    def how(self) -> Setting:
        """The setting itself."""
        return SETTINGS[self.setting]


def build(job: Job) -> torch.nn.Module:
    """The network of a job on its device. Raises ImportError where it needs a library that is not installed."""
    torch.manual_seed(0)
    model: torch.nn.Module
    if job.how.timm:
        from timm.models.convmixer import ConvMixer

        sizes = job.architecture
        if (sizes.head, sizes.branch) != ("linear", "depthwise") or not isinstance(sizes.kernel_size, int):
            raise ImportError("timm has no such network")
        act = torch.nn.GELU if sizes.activation == "gelu" else torch.nn.ReLU
        model = ConvMixer(
            sizes.dim, sizes.depth, sizes.kernel_size, sizes.patch_size, num_classes=job.n_classes, act_layer=act
        )
    else:
        model = build_model(job.architecture, job.n_classes, 3, job.how.engine)
    layout = torch.channels_last if job.how.channels_last else torch.preserve_format
    return model.to(job.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


def step_of(job: Job, model: torch.nn.Module | None = None) -> Callable[[], object]:
    """A function that trains (forward, loss, backward, AdamW) or infers one batch; it waits for no GPU.

    Args:
        job: what it does.
        model: the job's network, if already built.
    """
    device, dtype = torch.device(job.device), getattr(torch, job.how.precision)
    model = model or build(job)
    x = torch.randn(job.batch_size, 3, job.image_size, job.image_size, device=device)
    y = torch.randint(0, job.n_classes, (job.batch_size,), device=device)
    x = x.to(memory_format=torch.channels_last) if job.how.channels_last else x
    if job.how.runtime:
        assert isinstance(model, ConvMixer)
        return infer_step(job.how.runtime, model.eval(), x, job.how.precision)
    run = torch.compile(model) if job.how.compile else model
    precision = autocast(device, dtype)

    def infer() -> None:
        with torch.inference_mode(), precision:
            run(x)

    if job.what == "infer":
        model.eval()
        if job.how.engine != "plain":
            model.fuse()  # type: ignore[operator]
        return infer
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True, capturable=job.how.graph)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    def train() -> None:
        optimizer.zero_grad()
        with precision:
            loss = F.cross_entropy(run(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return train
