"""The commands that make files of a trained model: convmixer export and compress."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from convmixer.cli.output import ERRORS, print_json, print_table
from convmixer.deploy.pipeline import Pipeline
from convmixer.errors import InputError, Interrupted
from convmixer.runtime.progress import progress
from convmixer.runtime.terminal import Terminal
from convmixer.utils.formatting import percent

if TYPE_CHECKING:
    from convmixer.deploy.check import Comparison


@dataclass(frozen=True)
class Export:
    """Write a run's model to a file that runs elsewhere: uint8 pixels in, logits and probabilities out."""

    run: tyro.conf.Positional[Path]
    """Run directory."""
    format: Literal["onnx", "openvino", "torch-export", "safetensors", "paper", "hub", "web"] = "onnx"
    """onnx: for ONNX Runtime and most others. openvino: for Intel's runtime. torch-export: a program for PyTorch
    without this package. safetensors: the weights alone, with a description of network and images; paper: the same in
    the layout of the paper's code. hub: a folder as Hugging Face and timm have it, with a model card. web: a page
    that classifies pictures in the browser."""
    out: Path | None = None
    """File to write, or folder (hub, web); by default one in the run directory, named after it."""
    push: str | None = None
    """With --format hub: upload the folder to this repository (OWNER/NAME) on the hub; read its README.md first."""
    private: bool = False
    """With --push: whether a new repository is private."""
    json: bool = False
    """Print what was written and checked as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.deploy.export import export_run

        if self.format == "hub":
            return self._hub()
        if self.push is not None or self.private:
            raise InputError("--push, --private: only folders are uploaded; add --format hub.")
        if self.format == "web":
            return self._web()
        with progress(ERRORS, "checking", None) as advance:
            made = export_run(self.run, self.format, self.out, progress=lambda done: advance(done, None))
        if self.json:
            print_json(made.to_dict())
            return 0
        opset = f", opset {made.info.opset}" if made.info.opset else ""
        Terminal(soft_wrap=True).print(f"{made.file}: {made.bytes / 1e6:.2f} MB{opset}, checked in {made.runtime}")
        _print_check(made.check)
        return 0

    def _web(self) -> int:
        from convmixer.deploy.web import export_site

        with progress(ERRORS, "checking", None) as advance:
            site = export_site(self.run, self.out, progress=lambda done: advance(done, None))
        if self.json:
            print_json(site.to_dict())
            return 0
        out = Terminal(soft_wrap=True)
        out.print(f"{site.folder}: {site.bytes / 1e6:.2f} MB, checked in {site.runtime}")
        _print_check(site.check)
        out.print(f"Look at it: python -m http.server --directory {shlex.quote(str(site.folder))}")
        return 0

    def _hub(self) -> int:
        from convmixer.deploy.hub import save_pretrained
        from convmixer.models.pretrained import push_folder

        with progress(ERRORS, "checking", None) as advance:
            saved = save_pretrained(self.run, self.out, progress=lambda done: advance(done, None))
        if self.push is not None:
            saved = replace(saved, address=push_folder(saved.folder, self.push, private=self.private))
        if self.json:
            print_json(saved.to_dict())
            return 0
        out = Terminal(soft_wrap=True)
        out.print(f"{saved.folder}: config.json, model.safetensors ({saved.bytes / 1e6:.2f} MB), README.md")
        _print_check(saved.check)
        if saved.address is not None:
            out.print(f"Uploaded to {saved.address}")
        return 0


def _print_check(found: Comparison) -> None:
    allowed = f"allowed: {found.tolerance:.1e}"
    if found.error is not None and found.rounding is not None:
        allowed += f", or twice PyTorch's own error; from float64 {found.error:.1e}, PyTorch {found.rounding:.1e}"
    Terminal(soft_wrap=True).print(
        f"Logits differ from the run's by at most {found.largest_difference:.1e} ({allowed}); "
        f"the same class for {found.same_answers:,} of {found.images:,} images ({found.what})"
        + (f", accuracy {percent(found.accuracy)}" if found.accuracy is not None else "")
        + "."
    )


@dataclass(frozen=True)
class Compress:
    """Make a run's model smaller (prune, fine-tune, quantise), and say what it is worth on this machine."""

    run: tyro.conf.Positional[Path]
    """Run directory."""
    pipeline: tyro.conf.OmitArgPrefixes[Pipeline] = field(default_factory=Pipeline)
    out: Path | None = None
    """Folder to write; by default beside the run. The same command goes on with an interrupted one."""
    json: bool = False
    """Print the figures and verdicts as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.deploy.compress import compress_run, describe

        try:
            made = compress_run(
                self.run, self.pipeline, self.out, console=ERRORS, progress=lambda text: ERRORS.print(f"{text} …")
            )
        except Interrupted as stop:
            ERRORS.print("Interrupted; the same command goes on.")
            return 128 + stop.signum
        if self.json:
            print_json(made.to_dict() | {"folder": str(made.folder)})
            return 0
        headers = ("model", "test", "size", "mult-adds", "latency p50 / p99, 1 thread", "throughput")
        print_table(headers, describe(made.models), title=str(made.folder))
        out = Terminal(soft_wrap=True)
        for sentence in made.verdicts:
            out.print(sentence)
        return 0
