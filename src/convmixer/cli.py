"""The command line: parse, call one function, print.

Figures go to stdout, progress and messages to stderr. Exit status: 0 done, 1 failed, 2 bad input, 130 and 143
interrupted by SIGINT and SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from convmixer.bench.settings import BenchConfig
from convmixer.config import Device, Engine, Precision, RunConfig, Tta
from convmixer.errors import InputError, Interrupted
from convmixer.presets import run_config
from convmixer.search_space import SearchConfig

if TYPE_CHECKING:
    from convmixer.experiments.suite import Study
    from convmixer.report.records import StudyRecord
    from convmixer.training.evaluate import RunEvaluation
    from convmixer.training.run_dir import Summary

_DESCRIPTION = "Train, evaluate and use ConvMixer image classifiers. Every command has its own --help."
_ERRORS = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True)
class Train:
    """Train a model and leave a run directory. Defaults come from --model and --recipe; any flag overrides them."""

    run: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=run_config)
    out: Path | None = None
    """Directory to write; by default a new one under results/runs, named after model, data, recipe and seed."""
    config: Path | None = None
    """A run's config.json to take all defaults from, instead of --model and --recipe."""
    resume: bool = False
    """Continue the run in --out, or the newest one with this configuration."""
    json: bool = False
    """Print the summary as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.training import default_path, newest_path, train, unused_path

        out = self.out
        if out is None:
            out = (newest_path if self.resume else unused_path)(default_path(self.run))
        summary = train(self.run, out, resume=self.resume, console=_ERRORS)
        if self.json:
            _print_json(summary.to_dict() | {"run": str(out)})
        else:
            Console().print(_summary_table(summary, out))
        if summary.status == "diverged":
            _ERRORS.print(f"The run diverged: {summary.message}.", style="red", highlight=False)
            return 1
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a run's weights: accuracy, calibration, a table of classes, a confusion matrix."""

    run: tyro.conf.Positional[Path]
    """Run directory."""
    split: Literal["test", "val", "train"] = "test"
    """Which part of the data; train is without the validation part."""
    data_dir: str | None = None
    """Where archives lie, if not where they lay in training."""
    device: Device = "auto"
    """Where to run."""
    precision: Precision = "auto"
    """Number format; see convmixer train --help."""
    engine: Engine = "auto"
    """How the model is executed; see convmixer train --help."""
    tta: Tta | None = None
    """Test-time augmentation to report beside the plain figures; by default what the run asks for."""
    batch_size: int = 500
    """Images at once."""
    json: bool = False
    """Print the figures as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.training import evaluate_run, write_evaluation

        if self.batch_size < 1:
            raise InputError(f"--batch-size: {self.batch_size} is out of range; give at least 1.")
        evaluation = evaluate_run(
            self.run,
            self.split,
            data_dir=self.data_dir,
            device=self.device,
            precision=self.precision,
            engine=self.engine,
            tta=self.tta,
            batch_size=self.batch_size,
        )
        files = write_evaluation(evaluation)
        if self.json:
            _print_json(evaluation.to_dict())
        else:
            _print_evaluation(evaluation)
            _ERRORS.print("Written: " + ", ".join(str(file) for file in files), highlight=False)
        return 0


@dataclass(frozen=True)
class Predict:
    """Predict the classes of images with a run's weights."""

    run: tyro.conf.Positional[Path]
    """Run directory."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders, or - for an image on stdin."""
    top_k: int = 3
    """How many classes to name for each image."""
    device: Device = "auto"
    """Where to run."""
    json: bool = False
    """Print a JSON object for each image, one a line."""

    def execute(self) -> int:
        """Runs the command; returns the exit status: 2 if an image could not be read."""
        from convmixer.training import Prediction, RunDir, TrainedModel, predict_images

        if not self.images:
            raise InputError("predict: no image given; name files or folders, or - for stdin.")
        if self.top_k < 1:
            raise InputError(f"--top-k: {self.top_k} is out of range; give at least 1.")
        trained = TrainedModel.load(RunDir.existing(self.run), self.device)
        status, out = 0, Console(soft_wrap=True, highlight=False, markup=False)
        for answer in predict_images(trained, self.images, self.top_k):
            if not isinstance(answer, Prediction):
                _ERRORS.print(answer.reason, highlight=False, markup=False)
                status = 2
                continue
            ranking = list(zip(answer.classes, answer.probabilities, strict=True))
            if self.json:
                top = [{"class": name, "probability": p} for name, p in ranking]
                print(json.dumps({"image": answer.image, "top": top}))
            else:
                out.print(f"{answer.image}: " + ", ".join(f"{name} {p:.1%}" for name, p in ranking))
        return status


@dataclass(frozen=True)
class Experiment:
    """Run experiments of the study: tables of variants, each trained with several seeds.

    The same command continues where it was stopped; several processes with the same --out share the work.
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    """all, or some of document, hidden_dim, classifier, bottleneck, grid_search, recipes, kernel_size, patch_size,
    depth_vs_width, regularisation."""
    dataset: str = "cifar10"
    """digits, cifar10, cifar100, or folder:PATH."""
    data_dir: str = "data"
    """Where archives are looked for and placed."""
    profile: Literal["smoke", "cpu", "full"] = "full"
    """smoke (a minute on the digits), cpu (small networks on real images), full (the document's scale, for a GPU)."""
    seeds: int | None = None
    """How many runs of each row, with seeds from 0; by default what the profile says: 2, 3, 5."""
    out: Path | None = None
    """Directory of the study; by default results/PROFILE-DATASET."""
    precision: Precision | None = None
    """Number format, instead of the recipes' own."""
    device: Device = "auto"
    """Where to run."""
    json: bool = False
    """Print the table as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status: 1 if a run crashed."""
        from convmixer.experiments import experiments_named
        from convmixer.experiments.results import results_table
        from convmixer.experiments.suite import Suite
        from convmixer.report import write_report

        suite = Suite(self._study(), experiments_named(self.names), _ERRORS)
        try:
            crashes = suite.run()
        except Interrupted as stop:
            _ERRORS.print("Interrupted; the checkpoint is written, the same command continues.", highlight=False)
            return 128 + stop.signum
        results = suite.results()
        _, files = write_report(suite.study.out)
        if self.json:
            _print_json([result.to_dict() for result in results])
        else:
            Console().print(results_table(results, str(suite.study.out)))
        _ERRORS.print(f"Written: {', '.join(str(file) for file in files if file.suffix != '.png')}", highlight=False)
        for crash in crashes:
            _ERRORS.print(f"{crash}; the same command tries it again.", style="red", highlight=False, markup=False)
        return 1 if crashes else 0

    def _study(self) -> Study:
        from convmixer.config import DataConfig
        from convmixer.experiments import PROFILES
        from convmixer.experiments.suite import Study

        profile = PROFILES[self.profile]
        seeds = profile.seeds if self.seeds is None else self.seeds
        data = DataConfig(dataset=self.dataset, data_dir=self.data_dir)
        name = Path(self.dataset.removeprefix("folder:")).resolve().name
        out = self.out or Path("results") / f"{self.profile}-{name}"
        options = {
            "dataset": self.dataset,
            "data-dir": self.data_dir,
            "profile": self.profile,
            "seeds": seeds,
            "out": out,
        }
        options |= {"precision": self.precision} if self.precision else {}
        flags = [text for flag, value in options.items() for text in (f"--{flag}", str(value))]
        return Study(
            out=out,
            profile_name=self.profile,
            profile=profile,
            seeds=seeds,
            data=data,
            common={"device": self.device} | ({"precision": self.precision} if self.precision else {}),
            command=("convmixer", "experiment", *self.names, *flags),
        )


@dataclass(frozen=True)
class GridSearch:
    """Search the fields of a run for the best validation accuracy, then train the winner over seeds and test it.

    The same command continues where it was stopped; several processes with the same --out share the work.
    """

    run: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=run_config)
    search: Annotated[SearchConfig, tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction] = field(
        default_factory=SearchConfig
    )
    out: Path | None = None
    """Search directory; by default one under results/grid_search that is named after what is searched."""
    config: Path | None = None
    """A run's config.json to take all defaults from, instead of --model and --recipe."""
    json: bool = False
    """Print the records as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status: 1 if a run crashed, or none finished."""
        from convmixer.training import RunCrashedError
        from convmixer.training.grid_search import default_search_path, grid_search, tables

        out = self.out or default_search_path(self.run, self.search)
        try:
            result = grid_search(self.run, self.search, out, console=_ERRORS)
        except Interrupted as stop:
            _ERRORS.print("Interrupted; the checkpoints are written, the same command continues.", highlight=False)
            return 128 + stop.signum
        except RunCrashedError as error:
            _ERRORS.print(f"{error}; the same command tries it again.", style="red", highlight=False, markup=False)
            return 1
        if self.json:
            print((out / "grid_search.json").read_text(encoding="utf-8"), end="")
        else:
            for table in tables(result, self.search, str(out)):
                Console().print(table)
        failed = [record for record in result.records if record.state == "failed"]
        for record in failed:
            reason = f"{out / record.path} crashed, its error.txt says why; the same command tries it again."
            _ERRORS.print(reason, style="red", highlight=False, markup=False)
        if result.winner is None:
            _ERRORS.print("No run finished, so there is no winner.", style="red", highlight=False)
        return 1 if failed or result.winner is None else 0


@dataclass(frozen=True)
class Models:
    """List the models with parameters, multiply-adds and input size."""

    json: bool = False
    """Print the list as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.models import describe_models

        rows = describe_models()
        if self.json:
            _print_json([vars(row) for row in rows])
            return 0
        table = Table("model", "variant", "h/d", "kernel", "patch", "input", "classes", "parameters", "multiply-adds")
        for row in rows:
            cells = (row.model, row.variant, f"{row.dim}/{row.depth}", row.kernel_size, row.patch_size)
            cost = (f"{row.parameters:,}", f"{row.multiply_adds / 1e6:,.1f} M")
            table.add_row(*map(str, (*cells, f"{row.image_size}×{row.image_size}", row.n_classes, *cost)))
        Console().print(table)
        return 0


@dataclass(frozen=True)
class Data:
    """Find, download and verify a data set, and say what is in it."""

    dataset: tyro.conf.Positional[str] = "digits"
    """digits, cifar10, cifar100, or folder:PATH."""
    data_dir: str = "data"
    """Where archives are looked for and placed."""
    source: str | None = None
    """Where to download from instead of the known hosts: a URL, or hub (Hugging Face)."""
    image_size: int | None = None
    """Side in pixels that the images of a folder are resized and cropped to."""
    json: bool = False
    """Print the description as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.config import DataConfig
        from convmixer.data import load_dataset

        config = DataConfig(
            dataset=self.dataset, data_dir=self.data_dir, source=self.source, image_size=self.image_size
        )
        dataset = load_dataset(config, console=_ERRORS)
        info = dataset.info
        if self.json:
            _print_json(info.to_dict())
            return 0
        table = Table("split", "images", *info.classes[:10], *(["…"] if len(info.classes) > 10 else []))
        for name, split in dataset.splits.items():
            counts = split.labels.bincount(minlength=len(info.classes)).tolist()
            table.add_row(name, str(len(split)), *map(str, counts[:10]))
        Console().print(table)
        print(f"{info.channels}×{info.image_size}×{info.image_size}, {len(info.classes)} classes, {info.fingerprint}")
        return 0


@dataclass(frozen=True)
class Bench:
    """Measure the engines beside what PyTorch offers without them, and the augmentation beside Pillow's, in turns."""

    config: tyro.conf.OmitArgPrefixes[BenchConfig] = field(default_factory=BenchConfig)
    explain: bool = False
    """Instead of measuring, list which operation of the fast engine runs as what on this machine."""
    sweep: tuple[Literal["all", "batch_size", "depth", "dim", "image_size", "kernel_size"], ...] = ()
    """Instead of comparing competitors, measure how the engines' speed changes with these sizes of a small network."""
    json: Path | None = None
    """File to write the records to."""
    plot: Path | None = None
    """File, .png or .svg, for a picture: what the competitors reach under the machine's measured limits."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.bench import augment
        from convmixer.bench.compare import bench, explain, format_table, roofline_panels, write_json
        from convmixer.bench.sweep import AXES, format_sweep, sweep
        from convmixer.utils.bench_figures import roofline
        from convmixer.utils.visualization import save_figure

        if self.plot is not None and (self.plot.suffix.lower() not in (".png", ".svg") or self.sweep or self.explain):
            raise InputError(
                f"--plot: {self.plot} is not a .png or .svg, or goes with --sweep or --explain, which have none."
            )
        if not self.config.work and (self.plot is not None or self.sweep or self.explain):
            raise InputError("--what: --plot, --sweep and --explain are about networks; add train or infer to augment.")

        if self.explain:
            table = Table("what", "model", "setting", "operation", "runs as", "calls")
            for row in explain(self.config):
                table.add_row(*map(str, row))
            Console().print(table)
            return 0

        def progress(text: str) -> None:
            _ERRORS.print(f"bench: {text}", highlight=False, markup=False)

        records: list[Any] = []
        if self.sweep:
            records += sweep(self.config, list(AXES) if "all" in self.sweep else self.sweep, progress=progress)
            print(format_sweep(records))
        elif self.config.work:
            records += bench(self.config, progress)
            print(format_table(records))
            if self.plot is not None:
                save_figure(roofline(roofline_panels(records)), self.plot)
        if "augment" in self.config.what:
            prepared = augment.bench_augment(self.config, progress)
            records += prepared
            print(augment.format_table(prepared))
        if self.json is not None:
            write_json(records, self.json)
        return 0


@dataclass(frozen=True)
class Report:
    """Report a study, a folder of runs or a run: a page, Markdown with pictures, JSON and CSV."""

    folder: tyro.conf.Positional[Path]
    """What to report."""
    out: Path | None = None
    """Folder to write all of it to, or a file ending in .html, .md, .json or .csv; by default FOLDER/report."""
    json: bool = False
    """Print the records as JSON."""
    csv: bool = False
    """Print the runs as CSV."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.report import csv_text, json_text, write_report

        if self.json and self.csv:
            raise InputError("--json and --csv: only one of them can be printed; leave one out.")
        record, files = write_report(self.folder, self.out)
        if self.json or self.csv:
            print((json_text if self.json else csv_text)(record), end="")
        else:
            _print_report(record)
        for problem in record.problems:
            _ERRORS.print(problem, style="yellow", highlight=False, markup=False)
        _ERRORS.print(f"Written: {', '.join(str(f) for f in files if f.suffix != '.png')}", highlight=False)
        return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line, ``sys.argv`` by default, and exits."""
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: list[str]) -> int:
    try:
        command = _parse(arguments)
        status: int = command.execute()
        return status
    except InputError as error:
        _ERRORS.print(f"convmixer: {error}", style="red", highlight=False, markup=False)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever reads our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Interrupted as stop:
        _ERRORS.print("Interrupted; the checkpoint is written, --resume continues.", highlight=False)
        return 128 + stop.signum


def _parse(arguments: list[str]) -> Any:
    # The study's document says --hidden_dim for what its code, and ours, calls dim.
    arguments = [_renamed(argument) for argument in arguments]
    options: dict[str, Any] = {"default": _train_defaults(arguments[1:])} if arguments[:1] == ["train"] else {}
    searches = arguments[:1] == ["grid-search"]
    search_options: dict[str, Any] = {"default": GridSearch(run=_train_defaults(arguments[1:]).run)} if searches else {}
    commands: Any = (
        Annotated[Train, tyro.conf.subcommand("train", **options)]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Predict, tyro.conf.subcommand("predict")]
        | Annotated[Experiment, tyro.conf.subcommand("experiment")]
        | Annotated[GridSearch, tyro.conf.subcommand("grid-search", **search_options)]
        | Annotated[Models, tyro.conf.subcommand("models")]
        | Annotated[Data, tyro.conf.subcommand("data")]
        | Annotated[Bench, tyro.conf.subcommand("bench")]
        | Annotated[Report, tyro.conf.subcommand("report")]
    )
    style = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(commands, args=arguments, prog="convmixer", description=_DESCRIPTION, config=style)


def _renamed(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return f"--dim{equals}{value}" if name in ("--hidden-dim", "--hidden_dim") else argument


def _train_defaults(arguments: list[str]) -> Train:
    """What the flags that choose defaults say: --model and --recipe, or --config, or a run that is resumed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--model", "--recipe", "--config", "--out"):
        parser.add_argument(name)
    parser.add_argument("--resume", action="store_true")
    try:
        chosen, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        return Train()  # a flag without its value: the real parser says so
    if chosen.config and (chosen.model or chosen.recipe):
        raise InputError("--config: takes the place of --model and --recipe; give it or them.")
    file = Path(chosen.config) if chosen.config else None
    if file is None and chosen.resume and chosen.out and (Path(chosen.out) / "config.json").is_file():
        file = Path(chosen.out) / "config.json"
    if file is None:
        return Train(run=run_config(chosen.model or "convmixer", chosen.recipe or "baseline"))
    try:
        run = RunConfig.from_dict(json.loads(file.read_text()), where=str(file))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file}: cannot be read as a run's configuration ({error}).") from None
    return Train(run=run)


def _print_json(values: Any) -> None:
    print(json.dumps(values, indent=2))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _summary_table(summary: Summary, out: Path) -> Table:
    table = Table(title=str(out), show_header=False, title_justify="left")
    speed = f"{summary.epoch_seconds:.1f} s, {summary.images_per_second:.0f} img/s" if summary.epoch_seconds else "–"
    how = {"validation": "best on validation", "original": "best on test: not an unbiased figure"}[summary.protocol]
    rows = {
        "model": f"{summary.model}, {summary.parameters:,} parameters",
        "data": summary.dataset,
        "recipe": f"{summary.recipe}, seed {summary.seed}",
        "epochs": f"{summary.epochs}, selected {summary.selected_epoch} ({how})",
        "train accuracy": _percent(summary.train_accuracy),
        "val accuracy": _percent(summary.val_accuracy),
        "test accuracy": _percent(summary.test_accuracy),
        "test loss": "–" if summary.test_loss is None else f"{summary.test_loss:.4f}",
        "epoch": speed,
        "status": summary.status,
    }
    if summary.test_accuracy_tta is not None:
        rows["test accuracy, tta"] = _percent(summary.test_accuracy_tta)
    if pictures := sorted(path.name for path in out.glob("*.png")):
        rows["pictures"] = ", ".join(pictures)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _print_evaluation(evaluation: RunEvaluation) -> None:
    from convmixer.utils.metrics import accuracy_interval

    figures, console = evaluation.figures, Console()
    low, high = accuracy_interval(round(figures.accuracy * evaluation.images), evaluation.images)
    overall = Table(title=f"{evaluation.run}: {evaluation.split}, {evaluation.images} images", show_header=False)
    overall.add_row("accuracy", f"{figures.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%})")
    if evaluation.accuracy_tta is not None:
        overall.add_row(f"accuracy, --tta {evaluation.tta}", _percent(evaluation.accuracy_tta))
    overall.add_row("top-5 accuracy", _percent(figures.top5_accuracy))
    overall.add_row("loss", f"{figures.loss:.4f}")
    overall.add_row("expected calibration error", f"{figures.expected_calibration_error:.4f}")
    overall.add_row("speed", f"{evaluation.images_per_second:.0f} img/s, {evaluation.device} {evaluation.precision}")
    console.print(overall)
    classes = Table("class", "images", "precision", "recall", "F1")
    for row in figures.per_class:
        classes.add_row(row.name, str(row.images), _percent(row.precision), _percent(row.recall), f"{row.f1:.4f}")
    console.print(classes)


def _print_report(record: StudyRecord) -> None:
    from convmixer.report import tables

    rows = [(experiment.name, row) for experiment in record.experiments for row in experiment.rows]
    if record.grid is not None and record.grid.winner is not None:
        rows.append((record.grid.name, record.grid.winner))
    table = Table("experiment", *tables.summary([], "").headers)
    for (name, _), cells in zip(rows, tables.summary([row for _, row in rows], "").rows, strict=True):
        table.add_row(name, *(cell.text for cell in cells))
    Console().print(table)
