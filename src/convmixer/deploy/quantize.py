"""int8 after training: weights per channel, activations per tensor, their ranges taken from training images."""

from __future__ import annotations

import io
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmixer.deploy.check import BATCHES
from convmixer.deploy.formats import describe_onnx, onnx_graph, openvino_model, quiet, save_openvino
from convmixer.deploy.pipeline import LEAST, Backend
from convmixer.deploy.source import Source
from convmixer.errors import InputError
from convmixer.inference.model_file import INPUT, FilePredictor, required

FORMAT_OF: dict[Backend, str] = {"onnxruntime": "onnx", "openvino": "openvino", "nncf": "openvino"}
_BATCH = 16
_QUANTIZED = ("Conv", "Gemm", "MatMul")


def require_packages(backend: Backend, quantize: bool) -> None:
    """Raises InputError if what writes a backend's files is not installed: before the training, not after it."""
    what = f"--backend {backend}"
    for module in ("onnx", "onnxscript", "onnxruntime"):
        required(module, "onnx", what)
    if FORMAT_OF[backend] == "openvino":
        required("openvino", "openvino", what)
    if backend == "nncf" and quantize:
        required("nncf", "nncf", what)


def write_int8(source: Source, path: Path, backend: Backend, images: NDArray[np.uint8]) -> None:
    """Writes the network with 8-bit convolutions and linear layers: signed, symmetric and per channel for weights.

    The graph has pairs of QuantizeLinear and DequantizeLinear (QDQ) around each of them, as runtimes expect; what is
    between them, the activations, normalisations and sums, stays float32. NNCF rounds these as well, as OpenVINO is
    fast then.

    Args:
        source: the network.
        path: the file, .onnx or .xml.
        backend: the runtime that the file is for.
        images: (N, C, H, H) training images, that the ranges of the activations are taken from.

    Raises:
        InputError: the extra is not installed, the network cannot be exported, or too few images.
    """
    if len(images) < LEAST:
        raise InputError(f"--calibration: {len(images)} images are too few to take ranges from; give {LEAST} or more.")
    ranges = "mean of min-max" if backend == "nncf" else "min-max"
    change = {"step": "quantize", "to": "int8", "backend": backend, "calibration": len(images), "ranges": ranges}
    info = replace(source.info, precision="int8", changes=(*source.info.changes, change))
    graph = onnx_graph(source)
    if backend == "nncf":
        save_openvino(_by_nncf(openvino_model(graph), images), info, path)
    elif backend == "openvino":
        save_openvino(openvino_model(_qdq(graph, images)), info, path)
    else:
        graph = _qdq(graph, images)
        describe_onnx(graph, replace(info, opset=int(graph.opset_import[0].version)))
        path.write_bytes(graph.SerializeToString())


def check_int8(written: FilePredictor, images: NDArray[np.uint8]) -> None:
    """Raises RuntimeError if a file does not give finite logits, whatever the number of images at once."""
    for size in BATCHES:
        logits = written.logits(images[np.arange(size) % len(images)])
        if logits.shape != (size, len(written.classes)) or not np.isfinite(logits).all():
            raise RuntimeError(f"{written.runtime} gives no finite logits for {size} images. The file was not kept.")


def _by_nncf(model: Any, images: NDArray[np.uint8]) -> Any:
    """An ``openvino.Model``, quantised by OpenVINO's own tool."""
    nncf = required("nncf", "nncf", "--backend nncf")
    with quiet("nncf"), redirect_stdout(io.StringIO()):  # it draws bars
        return nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in images]),
            preset=nncf.QuantizationPreset.MIXED,  # zero points for activations: GELU's are hardly ever negative
            subset_size=len(images),
        )


def _qdq(graph: Any, images: NDArray[np.uint8]) -> Any:
    """The ONNX graph with quantised convolutions and linear layers."""
    quantization = required("onnxruntime.quantization", "onnx", "--quantize int8")
    preparation = required("onnxruntime.quantization.shape_inference", "onnx", "--quantize int8")

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.parts = iter(images[i : i + _BATCH] for i in range(0, len(images), _BATCH))

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            part = next(self.parts, None)
            return None if part is None else {INPUT: part}

    onnx = required("onnx", "onnx", "--quantize int8")
    with tempfile.TemporaryDirectory() as folder, quiet(None):
        given, prepared, result = (Path(folder) / name for name in ("given.onnx", "prepared.onnx", "int8.onnx"))
        given.write_bytes(graph.SerializeToString())
        # Shapes follow from the graph; its symbolic inference knows fewer operators than we use.
        preparation.quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            result,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=list(_QUANTIZED),
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        quantized = onnx.load(result)
    _slim(quantized, onnx.numpy_helper)
    return quantized


def _slim(graph: Any, helper: Any) -> None:
    """Drops from a quantised ONNX graph what says nothing: in small files it is a good part.

    These are zero points of weights and biases that are all 0, as they are where there are none; and of each
    normalisation two of four vectors, as factor and summand are enough.
    """
    values = {tensor.name: helper.to_array(tensor) for tensor in graph.graph.initializer}
    new: dict[str, NDArray[np.float32]] = {}
    for number, node in enumerate(graph.graph.node):
        if node.op_type == "DequantizeLinear" and node.input[0] in values and not values[node.input[2]].any():
            del node.input[2]
        elif node.op_type == "BatchNormalization":
            (epsilon,) = (attribute for attribute in node.attribute if attribute.name == "epsilon")
            gamma, beta, mean, variance = (values[name].astype(np.float64) for name in node.input[1:])
            factor = gamma / np.sqrt(variance + epsilon.f)
            size, epsilon.f = len(factor), 0.0
            parts = {  # networks may share tensors, so that none is changed
                f"norm_{number}_factor": factor,
                f"norm_{number}_summand": beta - mean * factor,
                f"zeros_{size}": np.zeros(size),
                f"ones_{size}": np.ones(size),
            }
            new |= {name: part.astype(np.float32) for name, part in parts.items()}
            node.input[1:] = list(parts)
    used = {name for node in graph.graph.node for name in node.input}
    kept = [tensor for tensor in graph.graph.initializer if tensor.name in used]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend([*kept, *(helper.from_array(values, name) for name, values in new.items())])
