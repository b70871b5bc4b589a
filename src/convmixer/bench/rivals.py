"""Other runtimes as competitors in inference: ONNX Runtime and OpenVINO, where they are installed (extra deploy)."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convmixer.bench.settings import Storage

Runtime = Callable[[bytes, int, Storage], Callable[[NDArray[np.float32]], object]]
_OPSET = 20


def infer_step(runtime: str, model: torch.nn.Module, x: torch.Tensor, precision: Storage) -> Callable[[], object]:
    """A function that infers one batch with another runtime.

    Args:
        runtime: a name in :data:`RUNTIMES`.
        model: in evaluation mode, with plain execution.
        x: images (N, C, H, W) float32; the number of threads is PyTorch's.
        precision: of its arithmetic.

    Raises:
        ImportError: the runtime is not installed, or the processor does not have the precision.
    """
    run = RUNTIMES[runtime](_graph(model, x), torch.get_num_threads(), precision)
    images = x.numpy()
    return lambda: run(images)


def _graph(model: torch.nn.Module, x: torch.Tensor) -> bytes:
    """The network as an ONNX file."""
    for name in ("onnx", "onnxscript"):
        importlib.import_module(name)
    logging.getLogger("torch").setLevel(logging.ERROR)  # this process is a competitor's own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            model, (x,), input_names=["images"], opset_version=_OPSET, dynamo=True, verbose=False, optimize=True
        )
    assert made is not None
    content: bytes = made.model_proto.SerializeToString()
    return content


def _onnxruntime(graph: bytes, threads: int, precision: Storage) -> Callable[[NDArray[np.float32]], object]:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def _openvino(graph: bytes, threads: int, precision: Storage) -> Callable[[NDArray[np.float32]], object]:
    runtime: Any = importlib.import_module("openvino")
    core = runtime.Core()
    if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ImportError("OpenVINO has no bfloat16 on this processor")
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(graph), "CPU", options)
    return lambda images: compiled(images)


RUNTIMES: dict[str, Runtime] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
"""From an ONNX file, threads and precision to a function of images."""
