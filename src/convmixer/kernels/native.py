"""The native kernels as functions of tensors. Which calls they cover, and the calls themselves; no autograd."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from convmixer.kernels import build

logger = logging.getLogger("convmixer.kernels")

OPERATIONS = ("normalize", "normalize_backward", "mix", "mix_backward", "depthwise", "depthwise_weight_gradient")
DTYPES = (torch.float32, torch.bfloat16)
ACTIVATIONS = ("gelu", "relu")
LARGEST_KERNEL = 15
_SERIAL_ELEMENTS = 8192  # below this many elements a second thread costs more than it brings

_pointer, _int64 = ctypes.c_void_p, ctypes.c_int64
_INTEGERS = "channels images height width kernel operation dtype activation batch_statistics add_input turn threads"
_TENSORS = "input gradient residual hidden_in output hidden_out bias0 bias1 gamma0 gamma1 beta0 beta1 weight"
_TENSORS += " image_scale statistics weight_gradient gradients"


_STORAGE = ("input", "gradient", "residual", "hidden_in", "output", "hidden_out")


class Job(ctypes.Structure):
    """``struct Job`` of native/convmixer.cpp; pairs such as ``bias[2]`` are written out here."""

    _fields_ = (
        *((name, _int64) for name in _INTEGERS.split()),
        ("eps", ctypes.c_double * 2),
        *((name, _pointer) for name in _TENSORS.split()),
        ("parallel", _pointer),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded kernels; None, after one logged line that says why, where they cannot be had."""
    if os.environ.get("CONVMIXER_NATIVE") == "0":
        logger.info("native kernels are switched off by CONVMIXER_NATIVE=0")
        return None
    try:
        return load(str(build.build()))
    except (build.BuildError, OSError) as error:
        logger.warning("fast kernels are not available, PyTorch's own are used instead (slower): %s", error)
        return None


def load(path: str) -> ctypes.CDLL:
    """Loads a built library. Raises OSError if it is not what this file was written for."""
    loaded = ctypes.CDLL(path)
    loaded.convmixer_job_size.restype = _int64
    if loaded.convmixer_job_size() != ctypes.sizeof(Job):
        raise OSError(f"{path} does not belong to this version")
    loaded.convmixer_run.argtypes = [ctypes.POINTER(Job)]
    return loaded


def covers(tensor: Tensor, kernel_size: int = 1) -> bool:
    """Whether the native kernels can work on this tensor with depthwise kernels of this size."""
    fits = tensor.device.type == "cpu" and tensor.dtype in DTYPES and kernel_size <= LARGEST_KERNEL
    return fits and tensor.numel() > 0 and library() is not None


def run(
    operation: str,
    shape: Sequence[int],
    tensors: Mapping[str, Tensor | None],
    *,
    kernel_size: int = 1,
    activation: str = "gelu",
    eps: tuple[float, float] = (0.0, 0.0),
    batch_statistics: bool = False,
    add_input: bool = False,
    turn: bool = False,
) -> None:
    """Runs one operation of :data:`OPERATIONS`; results are written into the tensors given for them.

    Args:
        operation: its name.
        shape: (C, N, H, W).
        tensors: by the names of the job's fields. ``input``, ``gradient``, ``residual``, ``hidden_*`` and ``output``
            have one dtype of :data:`DTYPES`, the others are float32; all contiguous.
        kernel_size: of the depthwise convolution.
        activation: "gelu" or "relu".
        eps: of the two normalisations.
        batch_statistics: statistics of this batch, written to ``statistics``, instead of those given there.
        add_input: adds the input of the depthwise convolution to the result of "mix".
        turn: turns the kernel of "depthwise" by 180 degrees.
    """
    loaded = library()
    storage = tensors["input"]
    if loaded is None or storage is None:
        raise RuntimeError(f"{operation}: there are no native kernels here, or no input")
    _check(operation, shape, kernel_size, storage.dtype, tensors)
    job = Job(*shape, kernel_size, OPERATIONS.index(operation), DTYPES.index(storage.dtype))
    job.activation = ACTIVATIONS.index(activation)
    job.batch_statistics, job.add_input, job.turn = batch_statistics, add_input, turn
    job.threads = torch.get_num_threads() if storage.numel() > _SERIAL_ELEMENTS else 1
    job.eps[0], job.eps[1] = eps
    job.parallel = build.parallel_entry()
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(job, name, tensor.data_ptr())
    if loaded.convmixer_run(ctypes.byref(job)):
        raise MemoryError(f"no memory for the {operation} kernel")


def _check(
    operation: str, shape: Sequence[int], kernel_size: int, storage: torch.dtype, tensors: Mapping[str, Tensor | None]
) -> None:
    """Refuses tensors that the kernels, which only see addresses, would read beyond their ends."""
    channels, images, height, width = shape
    sizes = dict.fromkeys(_STORAGE, channels * images * height * width)
    sizes |= dict.fromkeys(("weight", "weight_gradient"), channels * kernel_size**2)
    sizes |= {"image_scale": images, "statistics": channels * (4 if operation.startswith("mix") else 2)}
    sizes["gradients"] = channels * (6 if operation.startswith("mix") else 3)
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        dtype, size = storage if name in _STORAGE else torch.float32, sizes.get(name, channels)
        if tensor.numel() != size or tensor.dtype != dtype or not tensor.is_contiguous():
            found = f"{tensor.dtype} {list(tensor.shape)}"
            raise ValueError(f"{operation}: {name} is {found}; expected {size} contiguous values of {dtype}")
