"""Every preset, head and branch as ONNX and OpenVINO files: ``python benchmarks/export_check.py --json FILE``.

The networks have random weights, and statistics of batch normalisation from made images; each file has to answer as its
network does. Trained runs are checked by ``convmixer export`` itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from convmixer.deploy.check import CheckImages, compare, made_images
from convmixer.deploy.formats import OPSET, onnx_graph, save_openvino
from convmixer.deploy.source import Source
from convmixer.errors import InputError
from convmixer.files import write_atomic
from convmixer.inference.model_file import ModelInfo, Origin, open_model_file, required
from convmixer.inference.program_predictor import answers_of
from convmixer.parts.branches import BRANCHES
from convmixer.parts.heads import HEADS
from convmixer.presets import MODELS
from convmixer.runtime.device import device_name


@dataclass(frozen=True)
class Record:
    """One file beside the network that it was made from."""

    model: str
    head: str
    branch: str
    format: str
    opset: int
    runtime: str
    torch: str
    device_name: str
    images: int
    batches: tuple[int, ...]
    same_answers: int
    largest_difference: float
    """Of logits."""
    tolerance: float
    rounding: float | None
    """Of the network itself, from float64; only where the difference is beyond the tolerance."""
    error: float | None
    """Of the file, likewise."""
    equal: bool
    """Within the tolerance, or no further from float64 than four times the network in float32."""
    bytes: int
    seconds: float
    """To write and check it."""


def distinct() -> list[str]:
    """The presets without those that differ from an earlier one by head and branch alone."""
    seen: dict[object, str] = {}
    for name, preset in MODELS.items():
        network = replace(preset.architecture, head="linear", branch="depthwise")
        seen.setdefault((network, preset.image_size, preset.n_classes), name)
    return list(seen.values())


def made_network(model: str, head: str, branch: str) -> Source:
    """A preset with another head and branch."""
    preset = MODELS[model]
    info = ModelInfo(
        classes=tuple(f"class {i}" for i in range(preset.n_classes)),
        image_size=preset.image_size,
        channels=3,
        resize="shorter side, bicubic, centre crop",
        mean=preset.mean,
        std=preset.std,
        architecture=replace(preset.architecture, head=head, branch=branch),
        origin=Origin(
            run=model,
            identity="",
            dataset="made",
            fingerprint="",
            weights_sha256="",
            epoch=None,
            test_accuracy=None,
            commit=None,
        ),
    )
    torch.manual_seed(0)
    answers = answers_of(info)
    norms = [module for module in answers.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        answers(torch.from_numpy(made_images(info.input, 4, seed=1)))
    return Source(info, answers.eval())


def records(model: str, head: str, branch: str, images: int) -> Iterator[Record]:
    """A record for each format, made from one graph."""
    source = made_network(model, head, branch)
    given = CheckImages("made", made_images(source.info.input, images))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        onnx, xml = Path(folder) / "model.onnx", Path(folder) / "model.xml"
        onnx.write_bytes(onnx_graph(source).SerializeToString())
        openvino = required("openvino", "openvino", "benchmarks/export_check.py")
        for kind, file in (("onnx", onnx), ("openvino", xml)):
            if kind == "openvino":
                save_openvino(openvino.Core().read_model(onnx), source.info, xml)
            opened = open_model_file(file)
            found = compare(source.predictor(), opened, given, exact=source.exact_logits)
            parts = [part for part in (file, file.with_suffix(".bin")) if part.exists()]
            yield Record(
                model=model,
                head=head,
                branch=branch,
                format=kind,
                opset=OPSET,
                runtime=opened.runtime,
                torch=torch.__version__,
                device_name=device_name(torch.device("cpu")),
                images=found.images,
                batches=found.batches,
                same_answers=found.same_answers + found.ties,
                largest_difference=found.largest_difference,
                tolerance=found.tolerance,
                rounding=found.rounding,
                error=found.error,
                equal=found.equal,
                bytes=sum(part.stat().st_size for part in parts),
                seconds=round(time.perf_counter() - start, 1),
            )
            start = time.perf_counter()


def described(record: Record) -> str:
    """A record in a line."""
    beyond = "" if record.error is None else f" (from float64 {record.error:.1e}, {record.rounding:.1e})"
    return (
        f"{record.model} {record.head} {record.branch} {record.format}: {record.largest_difference:.2e}{beyond} "
        f"{record.same_answers}/{record.images} {record.seconds} s{'' if record.equal else '  DIFFERS'}"
    )


def main() -> None:
    """Prints a line for each file; exits with 1 if any answers differently."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=distinct(), help="presets; by default all networks once")
    parser.add_argument("--images", type=int, default=64, help="made images that each file is compared on")
    parser.add_argument("--json", type=Path, help="file for the records, to which they are added")
    parser.add_argument("--own", action="store_true", help="only each preset's own head and branch")
    given = parser.parse_args()
    if unknown := set(given.models) - set(MODELS):
        raise InputError(f"--models: {', '.join(sorted(unknown))} is no preset.")
    kept = json.loads(given.json.read_text()) if given.json and given.json.exists() else []
    kept = [record for record in kept if record["model"] not in given.models]
    bad = 0
    for model in given.models:
        own = MODELS[model].architecture
        for head in (own.head,) if given.own else HEADS:
            for branch in (own.branch,) if given.own else BRANCHES:
                for record in records(model, head, branch, given.images):
                    bad += not record.equal
                    print(described(record), flush=True)
                    kept.append(asdict(record))
        if given.json:
            write_atomic(given.json, json.dumps(kept, indent=1) + "\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
