"""The command that measures: convmixer bench."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from convmixer.bench.settings import BenchConfig
from convmixer.cli.output import ERRORS, check_figure_file, print_json, print_table, save_picture
from convmixer.errors import InputError
from convmixer.files import write_atomic
from convmixer.runtime.terminal import Terminal

_OF_ENGINES = ("models", "what", "image_size", "settings", "time_limit")


@dataclass(frozen=True)
class Bench:
    """Measure the engines beside what PyTorch offers without them, or trained models beside each other, in turns."""

    config: tyro.conf.OmitArgPrefixes[BenchConfig] = field(default_factory=BenchConfig)
    explain: bool = False
    """Instead of measuring, list which operation of the fast engine runs as what on this machine."""
    sweep: tuple[Literal["all", "batch_size", "depth", "dim", "image_size", "kernel_size"], ...] = ()
    """Instead of comparing competitors, measure how the engines' speed changes with these sizes of a small network."""
    files: tuple[Path, ...] = ()
    """Instead of engines, measure these runs and model files (.onnx, .xml, .safetensors): accuracy on the test images,
    size, memory, latency, throughput with --threads in batches of --batch-sizes; on the CPU, in --rounds."""
    data: Path | None = None
    """With --files: the run whose test images to take; by default the first one among them, or that a file lies in."""
    dataset: str | None = None
    """With --files: where these images are now, or another labelled set with the same classes."""
    json: bool = False
    """Print the records as JSON."""
    out: Path | None = None
    """File to write the records to, as JSON. A report shows those of --files where it is called bench_files.json."""
    plot: Path | None = None
    """File, .png or .svg, for a picture: what the competitors reach under the machine's measured limits; with --files,
    accuracy against latency and the Pareto front."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        if self.files:
            return self._files()
        if self.data is not None or self.dataset is not None:
            raise InputError("--data, --dataset: say whose images models are judged on; name models with --files.")
        from convmixer.bench import augment
        from convmixer.bench.compare import bench, explain, format_table, roofline_panels, to_json
        from convmixer.bench.sweep import AXES, format_sweep, sweep
        from convmixer.utils.bench_figures import roofline

        if self.plot is not None and (self.plot.suffix.lower() not in (".png", ".svg") or self.sweep or self.explain):
            raise InputError(
                f"--plot: {self.plot} is not a .png or .svg, or goes with --sweep or --explain, which have none."
            )
        if not self.config.work and (self.plot is not None or self.sweep or self.explain):
            raise InputError("--what: --plot, --sweep and --explain are about networks; add train or infer to augment.")

        if self.explain:
            headers = ("what", "model", "setting", "operation", "runs as", "calls")
            rows = explain(self.config)
            if self.json:
                print_json([dict(zip(headers, row, strict=True)) for row in rows])
            else:
                print_table(headers, [[str(cell) for cell in row] for row in rows])
            return 0

        def progress(text: str) -> None:
            ERRORS.print(f"bench: {text}")

        records: list[Any] = []
        table = ""
        if self.sweep:
            records += sweep(self.config, list(AXES) if "all" in self.sweep else self.sweep, progress=progress)
            table = format_sweep(records)
        elif self.config.work:
            records += bench(self.config, progress)
            table = format_table(records)
            if self.plot is not None:
                save_picture(roofline(roofline_panels(records)), self.plot)
        if "augment" in self.config.what:
            prepared = augment.bench_augment(self.config, progress)
            records += prepared
            table = "\n".join(filter(None, (table, augment.format_table(prepared))))
        print(to_json(records) if self.json else f"{table}\n", end="")
        if self.out is not None:
            write_atomic(self.out, to_json(records))
        return 0

    def _files(self) -> int:
        from convmixer.deploy.measure import measure_files
        from convmixer.report.figures import trade_off_points
        from convmixer.report.files import COLUMNS, files_conditions, files_of, files_table
        from convmixer.utils.study_figures import accuracy_against_time

        self._check_files()
        check_figure_file("--plot", self.plot)
        for flag, path in (("--out", self.out), ("--plot", self.plot)):
            if path is not None and not path.parent.is_dir():
                raise InputError(f"{flag}: {path.parent} is no folder; make it, or choose another place.")
        found = measure_files(
            self.files,
            data=self.data,
            dataset=self.dataset,
            threads=self.config.threads,
            batch_size=self.config.batch_sizes[0],
            rounds=self.config.rounds,
            progress=lambda text: ERRORS.print(f"bench: {text}", highlight=False, markup=False),
        )
        records = [one.to_dict() for one in found]
        shown = files_of("", records, "bench")
        if self.json:
            print_json(records)
        else:
            table = files_table(shown)
            rows = [[" ".join(filter(None, (cell.text, cell.note))) for cell in row] for row in table.rows]
            print_table(table.headers, rows, optional=COLUMNS)
            Terminal().print(files_conditions(shown))
        if self.out is not None:
            write_atomic(self.out, json.dumps(records, indent=1) + "\n")
        if self.plot is not None:
            save_picture(accuracy_against_time(trade_off_points(shown), latency=True), self.plot)
        return 0

    def _check_files(self) -> None:
        """Raises InputError for options that are about engines."""
        own, usual = self.config, BenchConfig()
        given = {f"--{name.replace('_', '-')}": getattr(own, name) != getattr(usual, name) for name in _OF_ENGINES}
        given |= {"--explain": self.explain, "--sweep": bool(self.sweep), "--device": own.device == "cuda"}
        if wrong := [flag for flag, there in given.items() if there]:
            raise InputError(f"{wrong[0]}: is about engines, and --files measures models on the CPU; leave it out.")
        if len(own.batch_sizes) > 1:
            raise InputError("--batch-sizes: --files measures throughput with one size; give one.")
