"""The commands that make files of a trained model: convmixer export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from convmixer.cli.output import ERRORS, print_json
from convmixer.runtime.progress import progress
from convmixer.runtime.terminal import Terminal
from convmixer.utils.formatting import percent


@dataclass(frozen=True)
class Export:
    """Write a run's model to a file that runs elsewhere: uint8 pixels in, logits and probabilities out."""

    run: tyro.conf.Positional[Path]
    """Run directory."""
    format: Literal["onnx", "openvino", "torch-export", "safetensors"] = "onnx"
    """onnx: for ONNX Runtime and most others. openvino: for Intel's runtime. torch-export: a program for PyTorch
    without this package. safetensors: the weights alone, with a description of network and images."""
    out: Path | None = None
    """File to write; by default one in the run directory, named after it."""
    json: bool = False
    """Print what was written and checked as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.deploy.export import export_run

        with progress(ERRORS, "checking", None) as advance:
            made = export_run(self.run, self.format, self.out, progress=lambda done: advance(done, None))
        if self.json:
            print_json(made.to_dict())
            return 0
        found, out = made.check, Terminal(soft_wrap=True)
        opset = f", opset {made.info.opset}" if made.info.opset else ""
        out.print(f"{made.file}: {made.bytes / 1e6:.2f} MB{opset}, checked in {made.runtime}")
        allowed = f"allowed: {found.tolerance:.1e}"
        if found.error is not None and found.rounding is not None:
            allowed += f", or twice PyTorch's own error; from float64 {found.error:.1e}, PyTorch {found.rounding:.1e}"
        out.print(
            f"Logits differ from the run's by at most {found.largest_difference:.1e} ({allowed}); "
            f"the same class for {found.same_answers:,} of {found.images:,} images ({found.what})"
            + (f", accuracy {percent(found.accuracy)}" if found.accuracy is not None else "")
            + "."
        )
        return 0
