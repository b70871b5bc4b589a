"""A whole network as one native call, on NumPy arrays: no PyTorch is needed."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convmixer.kernels import build

logger = logging.getLogger("convmixer.kernels")

Kind = Literal["patches", "depthwise", "pointwise", "means", "dense", "layer_norm"]
Floats = NDArray[np.float32]

_KINDS: tuple[Kind, ...] = ("patches", "depthwise", "pointwise", "means", "dense", "layer_norm")
_ACTIVATIONS = ("none", "gelu", "relu")
LARGEST_KERNEL = 15

_pointer, _int64 = ctypes.c_void_p, ctypes.c_int64


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A layer of a plan. Shapes: C channels in, K out; k side of a depthwise kernel, p of a patch."""

    kind: Kind
    """patches: from images (C, H, W) to maps, C·p² values each; depthwise and pointwise: from maps to maps; means: of
    maps; dense and layer_norm: from vectors to vectors."""
    width: int
    """K."""
    weight: Floats | None = None
    """patches (K, C·p²), depthwise (K, k, k), pointwise and dense (K, C)."""
    bias: Floats | None = None
    """(K,)."""
    activation: Literal["none", "gelu", "relu"] = "none"
    scale: Floats | None = None
    """(K,), of what the activation gives; with ``shift``."""
    shift: Floats | None = None
    """(K,), added to that."""
    source: int = 0
    """Which maps are read: 0, the network's; 1 and 2, a branch's."""
    target: int = 0
    """Which maps are written; of a depthwise layer other ones."""
    add: bool = False
    """Adds to the result, in a depthwise layer what it reads, in a pointwise one what the target holds."""
    eps: float = 0.0
    """Of layer_norm."""


class _LayerSpec(ctypes.Structure):
    """``struct LayerSpec`` of native/call.h."""

    _fields_ = (
        *((name, _int64) for name in ("kind", "in", "out", "kernel", "activation", "source", "target", "add")),
        ("eps", ctypes.c_double),
        *((name, _pointer) for name in ("weight", "bias", "scale", "shift")),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded code; None, after one logged line that says why, if it is unavailable."""
    return build.loaded("plan.cpp", load, "the native plan is not available (slower)")


def load(path: str) -> ctypes.CDLL:
    """Loads a built library. Raises OSError if it is not what this file was written for."""
    loaded = ctypes.CDLL(path)
    loaded.convmixer_layer_size.restype = _int64
    if loaded.convmixer_layer_size() != ctypes.sizeof(_LayerSpec):
        raise OSError(f"{path} does not belong to this version")
    loaded.convmixer_plan.restype = _pointer
    loaded.convmixer_plan.argtypes = [ctypes.POINTER(_LayerSpec), _int64, _int64, _int64]
    loaded.convmixer_plan_free.argtypes = [_pointer]
    loaded.convmixer_plan_run.argtypes = [_pointer, _pointer, *[_int64] * 4, _pointer, _int64]
    return loaded


class Plan:
    """A network, ready to run; weights are copied and brought into the order in which they are used.

    Args:
        layers: patches first, then depthwise and pointwise ones, means, and dense ones and layer norms.
        channels: C of the images.
        patch_size: p.
        loaded: the library; by default :func:`library`.

    Raises:
        RuntimeError: there are no native kernels here.
        ValueError: layers that do not fit one another.
    """

    def __init__(
        self, layers: Sequence[Layer], channels: int, patch_size: int, loaded: ctypes.CDLL | None = None
    ) -> None:
        native = loaded or library()
        if native is None:
            raise RuntimeError("there are no native kernels here")
        self._native, self.channels, self.patch_size = native, channels, patch_size
        specs, kept = _specs(layers, channels * patch_size**2, patch_size)
        handle = native.convmixer_plan(specs, len(specs), channels, patch_size)
        del kept  # was needed until here: the specs hold addresses
        if not handle:
            raise MemoryError("no memory for the plan")
        self._handle, self.width = handle, layers[-1].width
        weakref.finalize(self, native.convmixer_plan_free, handle)

    def run(self, images: NDArray[np.uint8] | Floats, threads: int | None = None) -> Floats:
        """Images (N, C, H, W), uint8 or float32, → (N, K) float32; K is the width of the last layer.

        Args:
            images: contiguous; other memory is copied.
            threads: by default, as many as there are cores.

        Raises:
            ValueError: other images than the plan is for.
            MemoryError: too many images at once.
        """
        given = np.ascontiguousarray(images)
        if given.ndim != 4 or given.shape[1] != self.channels or given.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"images are {given.dtype} {given.shape}; expected uint8 or float32 (N, {self.channels}, H, W)"
            )
        if min(given.shape[2:]) < self.patch_size:
            raise ValueError(f"images of {given.shape[2:]} pixels are smaller than a patch of {self.patch_size}")
        out = np.empty((len(given), self.width), np.float32)
        if len(given):
            count = threads or _cores()
            arguments = (given.dtype == np.uint8, *(given.shape[i] for i in (0, 2, 3)))
            if self._native.convmixer_plan_run(self._handle, given.ctypes.data, *arguments, out.ctypes.data, count):
                raise MemoryError(f"no memory for {len(given)} images at once")
        return out


def _cores() -> int:
    """How many this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _specs(layers: Sequence[Layer], inputs: int, patch_size: int) -> tuple[ctypes.Array[_LayerSpec], list[Floats]]:
    """The layers as the library takes them, and the arrays whose addresses are in it."""
    specs, kept = (_LayerSpec * len(layers))(), list[Floats]()
    widths = {0: inputs, 1: 0, 2: 0}

    def address(values: Floats | None, shape: tuple[int, ...]) -> int | None:
        if values is None:
            return None
        if values.shape != shape:
            raise ValueError(f"layer {len(kept)}: an array is {values.shape}; expected {shape}")
        kept.append(np.ascontiguousarray(values, np.float32))
        return kept[-1].ctypes.data

    for number, (layer, spec) in enumerate(zip(layers, specs, strict=True)):
        read = widths[layer.source]
        own = layer.kind in ("depthwise", "means", "layer_norm")
        if (layer.kind == "patches") != (number == 0) or (own and layer.width != read):
            raise ValueError(f"layer {number}: {layer.kind} of {read} channels to {layer.width} cannot be here")
        if layer.kind == "depthwise":
            kernel = 0 if layer.weight is None else layer.weight.shape[-1]
            if kernel % 2 == 0 or kernel > LARGEST_KERNEL:
                raise ValueError(f"layer {number}: a kernel of {kernel} is not covered")
            shape: tuple[int, ...] = (read, kernel, kernel)
        else:
            kernel, shape = patch_size if number == 0 else 0, (layer.width, read)
        if layer.weight is None and layer.kind not in ("means", "layer_norm"):
            raise ValueError(f"layer {number}: {layer.kind} has no weight")
        values = (_KINDS.index(layer.kind), read, layer.width, kernel, _ACTIVATIONS.index(layer.activation))
        for name, value in zip(("kind", "in", "out", "kernel", "activation"), values, strict=True):
            setattr(spec, name, value)
        spec.source, spec.target, spec.add, spec.eps = layer.source, layer.target, layer.add, layer.eps
        spec.weight = address(layer.weight, shape)
        for name in ("bias", "scale", "shift"):
            setattr(spec, name, address(getattr(layer, name), (layer.width,)))
        in_place = layer.kind == "depthwise" and layer.source == layer.target
        if in_place or (layer.add and layer.kind == "pointwise" and widths[layer.target] != layer.width):
            raise ValueError(f"layer {number}: {layer.width} channels cannot go where {widths[layer.target]} are")
        widths[layer.target] = layer.width
    return specs, kept
