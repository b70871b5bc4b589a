"""The formats that models are exported to. A new one is a function and a line in FORMATS."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convmixer.deploy.source import Source
from convmixer.errors import InputError
from convmixer.inference.model_file import INPUT, KEY, LOGITS, PROBABILITIES, ModelInfo, required
from convmixer.inference.program_predictor import EXTRA
from convmixer.models.weights import to_papers_layout

OPSET = 20
"""Of ONNX operators: the first one with Gelu, which the paper's networks consist of."""
_EXAMPLES = 2  # images that a graph is traced with: with one, their number would become part of the graph


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    suffix: str
    write: Callable[[Source, Path], None]
    """Writes a model to a file of this suffix."""
    beside: tuple[str, ...] = ()
    """Suffixes of further files that belong to it."""
    name: str = ""
    """What stands between a run's name and the suffix where no file is named."""


def _torch_export(source: Source, path: Path) -> None:
    """A program of torch.export, for PyTorch without this package."""
    torch.export.save(program(source), path, extra_files={EXTRA: source.info.to_json()})


def _safetensors(source: Source, path: Path) -> None:
    """The weights alone, in timm's layout, with the description of network and images as metadata."""
    _write_weights(source.answers.deployed.model.state_dict(), source, path)


def _paper(source: Source, path: Path) -> None:
    """The same in the layout of the paper's ``nn.Sequential``."""
    _write_weights(to_papers_layout(source.answers.deployed.model.state_dict()), source, path)


def _write_weights(state: dict[str, torch.Tensor], source: Source, path: Path) -> None:
    from safetensors.torch import save

    weights = {name: tensor.contiguous() for name, tensor in state.items()}
    path.write_bytes(save(weights, {"format": "pt", KEY: source.info.to_json()}))


def _onnx(source: Source, path: Path) -> None:
    """A graph of standard ONNX operators."""
    path.write_bytes(onnx_graph(source).SerializeToString())


def _openvino(source: Source, path: Path) -> None:
    """OpenVINO's own format, made from the ONNX graph; weights stay float32."""
    save_openvino(openvino_model(onnx_graph(source)), source.info, path)


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", _onnx),
    "openvino": Format(".xml", _openvino, (".bin",)),
    "torch-export": Format(".pt2", _torch_export),
    "safetensors": Format(".safetensors", _safetensors),
    "paper": Format(".safetensors", _paper, name=".paper"),
}


def program(source: Source, module: nn.Module | None = None) -> torch.export.ExportedProgram:
    """The model as a program of PyTorch's own operators, for any number of images at once.

    Args:
        source: the model.
        module: what to export instead of its answers, with the same input.

    Raises:
        InputError: a part of the network uses other operators, or cannot be exported.
    """
    info = source.info
    example = torch.zeros(_EXAMPLES, info.channels, info.image_size, info.image_size, dtype=torch.uint8)
    with quiet():
        try:
            exported = torch.export.export(
                module or source.answers, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
            )
        except Exception as error:  # of a head or branch of the user's own, anything
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise InputError(f"{info.origin.run}: torch.export cannot follow this network ({reason}).") from None
    targets = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    if foreign := sorted(target for target in targets if not target.startswith(("aten.", "<built-in", "sym_"))):
        raise InputError(
            f"{info.origin.run}: its network uses operators that only this machine has ({', '.join(foreign[:3])}); "
            "write that part with PyTorch's own."
        )
    return exported


def onnx_graph(
    source: Source, module: nn.Module | None = None, outputs: Sequence[str] = (LOGITS, PROBABILITIES)
) -> Any:
    """The model as an ``onnx.ModelProto`` of opset :data:`OPSET`, with its description as metadata.

    Args:
        source: the model.
        module: what to export instead of its answers, with the same input.
        outputs: names of what it gives.

    Raises:
        InputError: the extra is not installed, or the network cannot be exported.
    """
    required("onnx", "onnx", "--format onnx")
    required("onnxscript", "onnx", "--format onnx")
    exported, info = program(source, module), replace(source.info, opset=OPSET)
    with quiet():
        try:
            made = torch.onnx.export(
                exported,
                input_names=[INPUT],
                output_names=list(outputs),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
                optimize=True,
            )
        except Exception as error:  # the exporter's errors have a page of advice to its developers
            reason = " ".join(str(error.__cause__ or error).split())[:300].rstrip(".")
            raise InputError(f"{info.origin.run}: ONNX has no operators for this network ({reason}).") from None
    assert made is not None
    graph = made.model_proto
    _strip(graph)
    _name_batch(graph)
    domains = {node.domain for node in graph.graph.node}
    if domains != {""} or graph.functions:
        raise InputError(f"{info.origin.run}: its ONNX graph has operators that are not standard ({sorted(domains)}).")
    describe_onnx(graph, info)
    return graph


def describe_onnx(graph: Any, info: ModelInfo) -> None:
    """Makes ``info`` the description in an ``onnx.ModelProto``, in place of any it has."""
    kept = {item.key: item.value for item in graph.metadata_props if item.key != KEY}
    del graph.metadata_props[:]
    for key, value in (kept | {KEY: info.to_json()}).items():
        graph.metadata_props.add(key=key, value=value)


def openvino_model(graph: Any) -> Any:
    """An ONNX graph as an ``openvino.Model``."""
    return required("openvino", "openvino", "--format openvino").Core().read_model(graph.SerializeToString())


def save_openvino(model: Any, info: ModelInfo, path: Path) -> None:
    """Writes an ``openvino.Model`` with its description to ``path`` (.xml) and the .bin beside it."""
    openvino = required("openvino", "openvino", "--format openvino")
    model.set_rt_info(info.to_json(), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def _strip(graph: Any) -> None:
    """Drops what the exporter notes down for its developers: the source lines, with their places on this machine."""
    for part in (graph.graph, *graph.graph.node, *graph.graph.initializer, *graph.graph.input, *graph.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]


def _name_batch(graph: Any) -> None:
    """Calls the number of images ``batch`` where the exporter numbered its symbols."""
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.graph.value_info[:]  # optional, and names the symbol as well


@contextmanager
def quiet(name: str | None = "torch") -> Iterator[None]:
    """Keeps what exporters tell their developers, by warnings and the logger ``name``, from our users."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
