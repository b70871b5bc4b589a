"""The native kernels as a :class:`Backend`; see there for shapes. Covers float32 and bfloat16 on a CPU."""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from convmixer.kernels import build
from convmixer.kernels.backend import ActNorm, ActNormDepthwise, Maps, statistics_out

logger = logging.getLogger("convmixer.kernels")

NAME = "native"
OPERATIONS = (
    "act_norm",
    "act_norm_backward",
    "act_norm_depthwise",
    "act_norm_depthwise_backward",
    "depthwise",
    "depthwise_weight_gradient",
)
DTYPES = (torch.float32, torch.bfloat16)
ACTIVATIONS = ("gelu", "relu")
LARGEST_KERNEL = 15
_SERIAL_ELEMENTS = 8192  # below this many elements a second thread costs more than it brings

_pointer, _int64 = ctypes.c_void_p, ctypes.c_int64
_INTEGERS = "channels images height width kernel operation dtype activation batch_statistics add_input turn threads"
_STORAGE = ("input", "gradient", "residual", "hidden_in", "output", "hidden_out")
_TENSORS = (*_STORAGE, "weight", "image_scale", "statistics", "weight_gradient", "gradients")


class Parameters(ctypes.Structure):
    """``struct ActNorm`` of native/convmixer.cpp."""

    _fields_ = (("bias", _pointer), ("gamma", _pointer), ("beta", _pointer), ("eps", ctypes.c_double))


class Job(ctypes.Structure):
    """``struct Job`` of native/convmixer.cpp."""

    _fields_ = (
        *((name, _int64) for name in _INTEGERS.split()),
        ("norms", Parameters * 2),
        *((name, _pointer) for name in _TENSORS),
        ("parallel", _pointer),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded kernels; None, after one logged line that says why, if they are unavailable."""
    return build.loaded(
        "convmixer.cpp", load, "fast kernels are not available, PyTorch's own are used instead (slower)"
    )


def load(path: str) -> ctypes.CDLL:
    """Loads a built library. Raises OSError if it is not what this file was written for."""
    loaded = ctypes.CDLL(path)
    loaded.convmixer_job_size.restype = _int64
    if loaded.convmixer_job_size() != ctypes.sizeof(Job):
        raise OSError(f"{path} does not belong to this version")
    loaded.convmixer_run.argtypes = [ctypes.POINTER(Job)]
    return loaded


def covers(x: Tensor, kernel_size: int = 1, width: int = 1) -> bool:
    """See :meth:`Backend.covers`."""
    fits = x.device.type == "cpu" and x.dtype in DTYPES and kernel_size <= LARGEST_KERNEL
    return fits and x.numel() > 0 and library() is not None


def act_norm(
    u: Tensor, norm: ActNorm, statistics: Tensor | None, residual: Tensor | None, maps: Maps
) -> tuple[Tensor, Tensor]:
    """See :meth:`Backend.act_norm`."""
    out, used = torch.empty_like(u), statistics_out(u, statistics, 2)
    tensors = {"input": u, "statistics": used, "output": out, "residual": residual}
    _run("act_norm", maps, tensors, norm, batch_statistics=statistics is None)
    return out, used


def act_norm_backward(
    d: Tensor, u: Tensor, norm: ActNorm, statistics: Tensor, of_batch: bool, maps: Maps
) -> tuple[Tensor, Tensor]:
    """See :meth:`Backend.act_norm_backward`."""
    du, gradients = torch.empty_like(u), norm.gamma.new_empty((3, u.shape[0]))
    tensors = {"input": u, "gradient": d.contiguous(), "statistics": statistics, "output": du, "gradients": gradients}
    _run("act_norm_backward", maps, tensors, norm, batch_statistics=of_batch)
    return du, gradients


def act_norm_depthwise(
    u: Tensor, layers: ActNormDepthwise, statistics: Tensor | None, maps: Maps, keep_hidden: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """See :meth:`Backend.act_norm_depthwise`."""
    out, used = torch.empty_like(u), statistics_out(u, statistics, 4)
    hidden = torch.empty_like(u) if keep_hidden else None
    tensors = {"input": u, "weight": layers.weight, "statistics": used, "output": out, "hidden_out": hidden}
    options = {"batch_statistics": statistics is None, "add_input": layers.add_input}
    _run("act_norm_depthwise", maps, tensors, layers.first, layers.second, **options)
    return out, hidden, used


def act_norm_depthwise_backward(
    d: Tensor, u: Tensor, hidden: Tensor, layers: ActNormDepthwise, statistics: Tensor, of_batch: bool, maps: Maps
) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`Backend.act_norm_depthwise_backward`."""
    first, weight, second, add_input = layers
    du, dw, gradients = torch.empty_like(u), torch.empty_like(weight), first.gamma.new_empty((6, u.shape[0]))
    inputs = {"input": u, "gradient": d.contiguous(), "hidden_in": hidden, "weight": weight, "statistics": statistics}
    tensors = {**inputs, "output": du, "weight_gradient": dw, "gradients": gradients}
    options = {"batch_statistics": of_batch, "add_input": add_input}
    _run("act_norm_depthwise_backward", maps, tensors, first, second, **options)
    return du, dw, gradients


def depthwise(x: Tensor, weight: Tensor, shape: Sequence[int], turn: bool) -> Tensor:
    """See :meth:`Backend.depthwise`."""
    out = torch.empty_like(x)
    _run("depthwise", Maps(shape, "gelu", None), {"input": x, "weight": weight, "output": out}, turn=turn)
    return out


def depthwise_weight_gradient(x: Tensor, d: Tensor, kernel_size: int, shape: Sequence[int]) -> Tensor:
    """See :meth:`Backend.depthwise_weight_gradient`."""
    dw = x.new_empty((x.shape[0], kernel_size, kernel_size), dtype=torch.float32)
    tensors = {"input": x, "gradient": d.contiguous(), "weight_gradient": dw}
    _run("depthwise_weight_gradient", Maps(shape, "gelu", None), tensors)
    return dw


def _run(
    operation: str,
    maps: Maps,
    tensors: Mapping[str, Tensor | None],
    *norms: ActNorm,
    batch_statistics: bool = False,
    add_input: bool = False,
    turn: bool = False,
) -> None:
    """Runs one operation of :data:`OPERATIONS`; results are written into the tensors given for them.

    Args:
        operation: its name.
        maps: shape, activation and factors of the images.
        tensors: by the names of the job's fields. Those of ``_STORAGE`` have one dtype of :data:`DTYPES`, the others
            are float32; all contiguous.
        norms: parameters of the normalisations, in turn.
        batch_statistics: statistics of this batch, written to ``statistics``, instead of those given there.
        add_input: adds the input of the depthwise convolution to the result of "act_norm_depthwise".
        turn: turns the kernel of "depthwise" by 180 degrees.
    """
    loaded = library()
    storage = tensors["input"]
    if loaded is None or storage is None:
        raise RuntimeError(f"{operation}: there are no native kernels here, or no input")
    weight = tensors.get("weight", tensors.get("weight_gradient"))
    kernel_size = 1 if weight is None else weight.shape[-1]
    shape = (storage.shape[0], *maps.shape)
    sizes = _sizes(shape, kernel_size, max(1, len(norms)))
    job = Job(*shape, kernel_size, OPERATIONS.index(operation), DTYPES.index(storage.dtype))
    job.activation = ACTIVATIONS.index(maps.activation)
    job.batch_statistics, job.add_input, job.turn = batch_statistics, add_input, turn
    job.threads = torch.get_num_threads() if storage.numel() > _SERIAL_ELEMENTS else 1
    job.parallel = build.parallel_entry()
    for name, tensor in {**tensors, "image_scale": maps.image_scale}.items():
        if tensor is not None:
            dtype = storage.dtype if name in _STORAGE else torch.float32
            setattr(job, name, _address(operation, name, tensor, sizes[name], dtype))
    for fields, norm in zip(job.norms, norms, strict=False):
        fields.eps = norm.eps
        for name in ("bias", "gamma", "beta"):
            if (tensor := getattr(norm, name)) is not None:
                setattr(fields, name, _address(operation, name, tensor, shape[0], torch.float32))
    if loaded.convmixer_run(ctypes.byref(job)):
        raise MemoryError(f"no memory for the {operation} kernel")


def _sizes(shape: tuple[int, ...], kernel_size: int, norms: int) -> dict[str, int]:
    """Number of elements of the tensors in a job."""
    channels, images, height, width = shape
    sizes = dict.fromkeys(_STORAGE, channels * images * height * width)
    sizes["weight"] = sizes["weight_gradient"] = channels * kernel_size**2
    return sizes | {"image_scale": images, "statistics": 2 * norms * channels, "gradients": 3 * norms * channels}


def _address(operation: str, name: str, tensor: Tensor, size: int, dtype: torch.dtype) -> int:
    """The tensor's address. Refuses what the kernels, which see nothing else, would read beyond its end."""
    if tensor.numel() != size or tensor.dtype != dtype or not tensor.is_contiguous():
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise ValueError(f"{operation}: {name} is {found}; expected {size} contiguous values of {dtype}")
    return tensor.data_ptr()
