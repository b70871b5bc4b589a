"""Devices and number formats: choosing them, naming them."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from convmixer.config import Device, Precision
from convmixer.errors import InputError


def choose_device(name: Device) -> torch.device:
    """The device called ``name``; auto takes the first of cuda, mps and cpu. Raises InputError if it is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available[name]:
        found = ", ".join(kind for kind, there in available.items() if there)
        raise InputError(f"--device: no {name} device is available here; choose from auto, {found}.")
    return torch.device(name)


def choose_precision(name: Precision, device: torch.device) -> torch.dtype:
    """Number format of convolutions and matrix products; float32 where the device is not faster with fewer bits."""
    if name == "auto" and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name == "auto" or (name == "float16" and device.type == "cpu"):
        return torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def has_bfloat16(device: torch.device) -> bool:
    """Whether this is a CPU with instructions for bfloat16; without them it is slower than float32."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch has no such function
    return device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """A context in which convolutions and matrix products are computed in ``precision``."""
    return torch.autocast(device.type, precision, enabled=precision is not torch.float32)


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` rather than ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def device_name(device: torch.device) -> str:
    """The name that the device's maker gave it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
