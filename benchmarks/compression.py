"""What compression is worth on real images: ``python benchmarks/compression.py --data folder:CIFAR10-FOLDER``.

A network is trained, then made smaller in every way that ``convmixer compress`` offers, and everything that came of it
is measured in one run, in turns, beside the run itself. Small networks are trained with and without the first one as
their teacher. A run, or a pipeline, that has ended is not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from compact import merge, read

import convmixer
from convmixer.deploy.compress import RECORD, compress_run
from convmixer.deploy.formats import FORMATS
from convmixer.deploy.measure import Measured, measure_files
from convmixer.deploy.pipeline import Pipeline
from convmixer.deploy.quantize import FORMAT_OF
from convmixer.runs import RunDir, Summary


def trained(out: Path, fields: dict[str, Any]) -> Summary:
    """The summary of a run, which is trained or continued unless it has ended."""
    if not (out / "summary.json").exists():
        return convmixer.train(fields, out, resume=(out / "config.json").exists(), artifacts=False)
    summary = RunDir.existing(out).summary()
    assert summary is not None
    return summary


def compressed(run: Path, out: Path, pipeline: Pipeline) -> list[str]:
    """The verdicts of a pipeline, which is run unless it has ended."""
    done = json.loads((out / RECORD).read_text()) if (out / RECORD).exists() else {}
    verdicts: list[str] = done.get("verdicts") or list(compress_run(run, pipeline, out, progress=print).verdicts)
    return verdicts


def measured(row: Measured, work: Path, about: dict[str, Any]) -> dict[str, Any]:
    """A record of a model among others."""
    values = {name: value for name, value in row.to_dict().items() if value is not None}
    return about | values | {"what": "file", "file": Path(row.file).relative_to(work).as_posix()}


def _is_measured(records: Path, name: str) -> bool:
    return any(record["what"] == "file" and record["model"] == name for record in read(records, []))


def main() -> None:
    """Does what is missing and writes a record of each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="cifar10, or folder:DIR with CIFAR-10 as train/CLASS, test/CLASS")
    parser.add_argument("--name", default="64-4", help="of the network, for its folder and its records")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--qat", type=int, default=1, help="epochs of training with 8-bit rounding")
    parser.add_argument("--ratio", type=float, default=0.375, help="of the channels, to prune; 0: nothing is pruned")
    parser.add_argument("--finetune", type=int, default=2, help="epochs after pruning")
    parser.add_argument("--students", type=int, default=3, help="seeds of the small network, with and without teacher")
    parser.add_argument("--student-epochs", type=int, default=4)
    parser.add_argument("--work", type=Path, default=Path("results/runs/compression"), help="where runs are kept")
    parser.add_argument("--out", type=Path, default=Path("results/cpu/compression/records.json"))
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    about = {"model": args.name, "commit": commit.strip()}
    common = {"dataset": args.data, "recipe": "strong-short", "epochs": args.epochs}
    common |= {"kernel_size": 5, "patch_size": args.patch}
    run, folder = args.work / args.name, args.work / f"{args.name}-compressed"
    trained(run, {**common, "dim": args.dim, "depth": args.depth})
    folder.mkdir(exist_ok=True)
    files: list[Path] = [run]
    for backend, file_format in FORMAT_OF.items():
        qat = args.qat if backend == "onnxruntime" else 0  # OpenVINO gets the same graph, NNCF makes its own
        compressed(run, folder / backend, Pipeline(quantize="int8", qat=qat, backend=backend))
        original = backend != "nncf"  # whose is OpenVINO's
        names = ["original"] * original + ["int8"] + ["int8-qat"] * bool(qat)
        files += [folder / backend / f"{name}{FORMATS[file_format].suffix}" for name in names]
    if args.ratio:
        pipeline = Pipeline(prune="channels", ratio=args.ratio, finetune=args.finetune, baseline=True)
        verdicts = compressed(run, folder / "pruned", pipeline)
        merge(args.out, [about | {"what": "pruned", "finetune": args.finetune, "verdicts": verdicts}])
        files += [folder / "pruned" / f"{name}.onnx" for name in ("compressed", "scratch")]
        files.append(folder / "pruned" / "finetuned")
    if not _is_measured(args.out, args.name):
        merge(args.out, [measured(row, args.work, about) for row in measure_files(files, progress=print)])
    for seed in range(args.students):
        for teacher in (None, str(run)):
            out = args.work / f"student-{seed}{'' if teacher is None else '-taught'}"
            sizes = {"dim": 32, "depth": args.depth, "epochs": args.student_epochs}
            summary = trained(out, {**common, **sizes, "seed": seed, "teacher": teacher})
            record = {
                "what": "student",
                "run": out.name,
                "seed": seed,
                "taught": teacher is not None,
                **{name: getattr(summary, name) for name in ("parameters", "test_accuracy", "epoch_seconds", "status")},
            }
            merge(args.out, [about | record])
            print(json.dumps(record))


if __name__ == "__main__":
    main()
