"""Inference without PyTorch: our own native plan, ONNX Runtime and OpenVINO, as far as they are installed."""

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
from convmixer.models import ConvMixer
from convmixer.models.engines.planned import plan_of

Infer = Callable[[NDArray[np.float32]], object]
Runtime = Callable[[ConvMixer, torch.Tensor, int, Storage], Infer]
_OPSET = 20


def infer_step(runtime: str, model: ConvMixer, x: torch.Tensor, precision: Storage) -> Callable[[], object]:
    """A function that infers one batch with another runtime.

    Args:
        runtime: a name in :data:`RUNTIMES`.
        model: in evaluation mode, with plain execution.
        x: images (N, C, H, W) float32; the number of threads is PyTorch's.
        precision: of its arithmetic.

    Raises:
        ImportError: the runtime is not installed, does not know the network, or the processor not the precision.
    """
    run = RUNTIMES[runtime](model, x, torch.get_num_threads(), precision)
    images = x.numpy()
    return lambda: run(images)


def _native(model: ConvMixer, x: torch.Tensor, threads: int, precision: Storage) -> Infer:
    plan = plan_of(model)
    if plan is None:
        raise ImportError("there is no native plan for this network here")
    return lambda images: plan.run(images, threads)


def _graph(model: ConvMixer, x: torch.Tensor) -> bytes:
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


def _onnxruntime(model: ConvMixer, x: torch.Tensor, threads: int, precision: Storage) -> Infer:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = runtime.InferenceSession(_graph(model, x), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def _openvino(model: ConvMixer, x: torch.Tensor, threads: int, precision: Storage) -> Infer:
    runtime: Any = importlib.import_module("openvino")
    core = runtime.Core()
    if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ImportError("OpenVINO has no bfloat16 on this processor")
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(_graph(model, x)), "CPU", options)
    return lambda images: compiled(images)


RUNTIMES: dict[str, Runtime] = {"native": _native, "onnxruntime": _onnxruntime, "openvino": _openvino}
"""From a model, images, threads and precision to a function of such images."""
