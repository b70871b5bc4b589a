"""All measurements on a GPU, in slices of a few minutes that continue where the last one stopped.

    python benchmarks/gpu.py --out results/gpu --data folder:PATH --slice next --minutes 8.5

works through SLICES in their order, as far as the minutes go, and can be called again and again, on this machine or on
another. What is in --out is small, and all that is needed to continue:

    PART/records.json   what the slices of a part measured: benchmarks, runs with their configuration and epochs
    environment.json    the machines: GPU, driver, versions, commit
    state.json          which slices are done, with their commands
    raw/                run directories, logs; only a training run that was stopped in its middle loses by its absence

A slice is told to stop before its time is up, upon which training writes a checkpoint: by SIGTERM, as the background
jobs of a shell ignore SIGINT.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from compact import merge, read, restore, rounded, run_records

from convmixer.files import write_atomic
from convmixer.runtime.environment import describe_environment

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = (sys.executable, "-m", "convmixer")
STOP_SECONDS = 25.0  # before the end: time to write checkpoints

PUBLISHED = ("recipes", "published")
OTHERS = ("hidden_dim", "bottleneck", "kernel_size", "patch_size", "depth_vs_width", "regularisation")
BOTH = ("convmixer_256_8_k9", "convmixer_256_8_k5")
TRAIN = ("--what", "train", "--batch-sizes", "512")
SMALL = ("--dim", "8", "--depth", "1")  # networks, to try this program
FEW = (
    "--settings",
    "plain",
    "plain+fp16",
    "channels_last+bf16",
    "compile+bf16",
    "fast+bf16",
    "fast+graph+bf16",
    "auto+bf16",
)


@dataclass(frozen=True)
class Options:
    """The command line."""

    out: Path
    data: str
    minutes: float
    workers: int
    tiny: bool
    commit: str | None

    @property
    def raw(self) -> Path:
        """For what is not small."""
        return self.out / "raw"

    @property
    def device(self) -> str:
        """Where all commands run."""
        return "cpu" if self.tiny else "cuda"


@dataclass(frozen=True)
class Slice:
    """A command that measures something, and where its results go."""

    part: str
    command: Callable[[Options, str], Sequence[str]]
    """Its arguments, from the options and the slice's name."""
    collect: Callable[[Options, str], list[dict[str, Any]]]
    """Its records, from the options and the slice's name."""
    minutes: float = 1.0
    """Not begun with less time left; a slice that cannot be stopped and resumed needs all of it."""
    processes: Callable[[Options], int] = field(default=lambda options: 1)
    """How many processes of the command share the work."""


# What is run


def bench(
    *arguments: str, tiny: Sequence[str] = ("--models", "convmixer", "--settings", "fast"), picture: bool = False
) -> Slice:
    """``convmixer bench`` with these arguments."""

    def command(options: Options, name: str) -> list[str]:
        small = (*tiny, "--image-size", "8", "--batch-sizes", "2", "--rounds", "1")
        where = ["--device", options.device, "--out", str(options.raw / f"{name}.json")]
        where += ["--plot", str(options.out / "bench" / f"{name}.png")] if picture else []
        return [*PROGRAM, "bench", *where, *arguments, *(small if options.tiny else ())]

    return Slice("bench", command, bench_records, minutes=3.0)


def tests(options: Options, name: str) -> list[str]:
    """The tests that need a GPU; without one they are skipped."""
    report = f"--junitxml={options.raw / f'{name}.xml'}"
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", report]
    return [*pytest, "tests/bench" if options.tiny else "tests"]


def script(options: Options, name: str, *arguments: str, tiny: Sequence[str]) -> list[str]:
    """A script of this folder."""
    path = str(ROOT / "benchmarks" / name)
    return [sys.executable, path, *arguments, "--device", options.device, *(tiny if options.tiny else ())]


def authors_script(options: Options, name: str) -> list[str]:
    """The reference recipe as a plain script."""
    arguments = (options.data.removeprefix("folder:"), "--epochs", "2", "--workers", str(min(16, os.cpu_count() or 1)))
    return script(options, "plain_script.py", *arguments, tiny=(*SMALL, "--patch-size", "4", "--batch-size", "16"))


def profile(model: str) -> Slice:
    """Where the time of an epoch goes."""

    def command(options: Options, name: str) -> list[str]:
        arguments = ("--data", options.data, "--model", model)
        return script(options, "epoch_profile.py", *arguments, tiny=(*SMALL, "--epochs", "2"))

    return Slice("bench", command, printed_records)


def training(options: Options, out: str, *arguments: str, tiny: Sequence[str] = SMALL) -> list[str]:
    """A command of convmixer that trains on the data and leaves what it did in ``raw/out``."""
    where = ("--dataset", options.data, "--device", options.device, "--out", str(options.raw / out))
    return [*PROGRAM, *arguments, *where, *(tiny if options.tiny else ())]


def study(suite: str, names: Sequence[str], seeds: int) -> Slice:
    """A round of experiments: the seeds below ``seeds``."""

    def command(options: Options, name: str) -> list[str]:
        chosen, profile = (names[:1], "smoke") if options.tiny else (names, "full")
        return training(options, suite, "experiment", *chosen, "--profile", profile, "--seeds", str(seeds), tiny=())

    return Slice(suite, command, lambda options, name: run_records(options.raw / suite), processes=lambda o: o.workers)


def grid(options: Options, name: str) -> list[str]:
    """27 combinations of learning rate, weight decay and batch size, chosen on validation images."""
    tiny = (*SMALL, "--epochs", "1", "--values", "lr=0.01,0.02", "--seeds", "1")
    return training(options, "grid", "grid-search", "--workers", str(options.workers), tiny=tiny)


def one_run(part: str, model: str, recipe: str, epochs: int) -> Slice:
    """One run that has the GPU for itself, resumed by each call."""

    def command(options: Options, name: str) -> list[str]:
        sizes = ("--epochs", str(1 if options.tiny else epochs))
        resume = ["--resume"] if (options.raw / part / name / "config.json").exists() else []
        return training(options, f"{part}/{name}", "train", "--model", model, "--recipe", recipe, *sizes, *resume)

    return Slice(part, command, lambda options, name: run_records(options.raw / part))


# What comes out


def bench_records(options: Options, name: str) -> list[dict[str, Any]]:
    """The records that ``convmixer bench`` wrote."""
    records: list[dict[str, Any]] = read(options.raw / f"{name}.json", [])
    return [{"slice": name, **{key: rounded(value) for key, value in record.items()}} for record in records]


def test_records(options: Options, name: str) -> list[dict[str, Any]]:
    """How many tests there were, and what became of them."""
    (suite,) = ElementTree.parse(options.raw / f"{name}.xml").iter("testsuite")
    counts = {key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")}
    return [{"slice": name, **counts, "seconds": float(suite.get("time", "0"))}]


def printed_records(options: Options, name: str) -> list[dict[str, Any]]:
    """Lines of JSON that the command has printed."""
    lines = (options.raw / f"{name}.log").read_text(encoding="utf-8").splitlines()
    return [{"slice": name, **json.loads(line)} for line in lines if line.startswith("{")]


SLICES: dict[str, Slice] = {
    "tests": Slice("tests", tests, test_records, minutes=3.0),
    "bench-k5": bench("--models", "convmixer_256_8_k5", *TRAIN, picture=True),
    "bench-k9": bench("--models", "convmixer_256_8_k9", *TRAIN, picture=True),
    "bench-infer": bench("--models", *BOTH, "--what", "infer", "--batch-sizes", "512", picture=True),
    "bench-augment": bench("--what", "augment", "--batch-sizes", "512", tiny=("--models", "convmixer")),
    "authors-script": Slice("bench", authors_script, printed_records, minutes=3.0),
    "epoch-k5": one_run("epoch", "convmixer_256_8_k5", "reference", 5),
    "profile-k5": profile("convmixer_256_8_k5"),
    "epoch-k9": one_run("epoch", "convmixer_256_8_k9", "reference", 5),
    "document-1": study("document", PUBLISHED, 1),
    "document-2": study("document", PUBLISHED, 2),
    "document-3": study("document", PUBLISHED, 3),
    "grid": Slice("grid", grid, lambda options, name: run_records(options.raw / "grid")),
    "bench-512": bench("--models", "convmixer_512_8_k5", "convmixer_512_8_k9", *TRAIN, *FEW),
    "bench-variants": bench("--models", "convmixer_rh", "convmixer_lc", "convmixer_bn", *TRAIN, *FEW),
    "bench-imagenet": bench(
        *("--models", "convmixer_1536_20", "convmixer_768_32", "convmixer_1024_20_ks9_p14"),
        *("--image-size", "224", "--batch-sizes", "16", *FEW),
    ),
    "sweep": bench("--sweep", "all", "--what", "train", tiny=("--sweep", "depth")),
    "long-512-strong": one_run("long", "convmixer_512_8_k5", "strong", 200),
    "document-4": study("document", PUBLISHED, 4),
    "document-5": study("document", PUBLISHED, 5),
    **{f"others-{seeds}": study("others", OTHERS, seeds) for seeds in range(1, 4)},
}


# How it is run


def main() -> None:
    """Runs slices until the minutes are over; exits with 1 if one failed."""
    options, wanted = parsed()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options.raw.mkdir(parents=True, exist_ok=True)
    for part in {piece.part for piece in SLICES.values()} - {"tests", "bench"}:
        restore(options.raw / part, read(options.out / part / "records.json", []))
    end = time.monotonic() + 60 * options.minutes
    outcomes: list[str] = []
    while "stopped" not in outcomes and (name := next_slice(options, wanted, end)):
        outcomes.append(run_slice(options, name, end))
        if wanted != "next":
            break
    left = [name for name in SLICES if state(options).get(name, {}).get("status") != "done"]
    print(f"Not done: {', '.join(left) or 'nothing'}.")
    sys.exit("failed" in outcomes)


def parsed() -> tuple[Options, str]:
    """The options and the slice that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--data", required=True, help="cifar10, folder:PATH or digits")
    parser.add_argument("--slice", default="next", choices=["next", *SLICES])
    parser.add_argument("--minutes", type=float, default=8.5, help="it ends before these are over")
    parser.add_argument("--workers", type=int, default=3, help="runs at the same time, in the study and grid")
    parser.add_argument("--tiny", action="store_true", help="small networks on the CPU, to try this program")
    parser.add_argument("--commit", help="of the code, where it is not a git checkout")
    args = parser.parse_args()
    kind, _, path = args.data.partition(":")  # commands run in the repository's root
    data = f"{kind}:{os.path.relpath(path, ROOT)}" if path else kind
    options = Options(args.out.resolve(), data, args.minutes, args.workers, args.tiny, args.commit)
    if not options.tiny and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --tiny tries this program on the CPU.")
    return options, args.slice


def state(options: Options) -> dict[str, Any]:
    """state.json."""
    found: dict[str, Any] = read(options.out / "state.json", {})
    return found


def next_slice(options: Options, wanted: str, end: float) -> str | None:
    """The slice that is wanted, or the first that is neither done nor failed and for which there is time."""
    if wanted != "next":
        return wanted
    left = (end - time.monotonic()) / 60
    known = state(options)
    waiting = [name for name in SLICES if known.get(name, {}).get("status") not in ("done", "failed")]
    return next((name for name in waiting if options.tiny or SLICES[name].minutes <= left), None)


def run_slice(options: Options, name: str, end: float) -> str:
    """Runs a slice and keeps its records; returns how it ended: done, stopped or failed."""
    piece = SLICES[name]
    command = list(piece.command(options, name))
    print(f"{name}: {shown(options, command)}", flush=True)
    start = time.monotonic()
    status = run(command, piece.processes(options), options.raw / f"{name}.log", end)
    try:
        merge(options.out / piece.part / "records.json", piece.collect(options, name))
    except (OSError, ValueError) as error:
        if status == "done":
            raise
        print(f"{name}: nothing to keep ({error})")
    seconds = round(time.monotonic() - start, 1)
    entry = {"status": status, "seconds": seconds, "command": shown(options, command)}
    write_atomic(options.out / "state.json", json.dumps({**state(options), name: entry}, indent=1) + "\n")
    note_environment(options, name)
    print(f"{name}: {status} after {seconds} s", flush=True)
    if status == "failed":
        print((options.raw / f"{name}.log").read_text(encoding="utf-8")[-3000:], flush=True)
    return status


def run(command: Sequence[str], count: int, log: Path, end: float) -> str:
    """Runs ``count`` processes of a command until they end or are asked to; its output goes to ``log``."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    with log.open("w", encoding="utf-8") as output:
        options: dict[str, Any] = {"cwd": ROOT, "env": environment, "stdout": output, "stderr": subprocess.STDOUT}
        processes: list[subprocess.Popen[bytes]] = []
        asked = False
        try:
            while len(processes) < count:
                processes.append(subprocess.Popen(command, start_new_session=True, **options))
            wait(processes, end - STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            asked = True
            for process in processes:
                process.send_signal(signal.SIGTERM)
            try:
                wait(processes, min(end, time.monotonic() + STOP_SECONDS))
            except subprocess.TimeoutExpired:
                for process in processes:
                    os.killpg(process.pid, signal.SIGKILL)
                wait(processes, time.monotonic() + STOP_SECONDS)
    codes = {process.returncode for process in processes}
    return "done" if codes == {0} and len(processes) == count else "stopped" if asked else "failed"


def wait(processes: Sequence[subprocess.Popen[bytes]], end: float) -> None:
    """Waits until all have ended. Raises TimeoutExpired if one still runs at ``end``."""
    for process in processes:
        process.wait(max(0.0, end - time.monotonic()))


def shown(options: Options, command: Sequence[str]) -> str:
    """A command as somebody else would give it."""
    text = " ".join(command).replace(sys.executable, "python").replace("python -m convmixer", "convmixer")
    return text.replace(str(options.out), options.out.name).replace(f"{ROOT}{os.sep}", "")


def note_environment(options: Options, name: str) -> None:
    """Adds this machine to environment.json, or the slice to what was measured on it."""
    values = describe_environment(torch.device(options.device))
    facts = {key: values[key] for key in ("device", "platform", "python", "torch", "cpu_count", "commit")}
    facts |= {"commit": options.commit or facts["commit"], "cuda": torch.version.cuda, "driver": driver()}
    machines: list[dict[str, Any]] = read(options.out / "environment.json", [])
    for machine in machines:
        if {key: machine.get(key) for key in facts} == facts:
            machine["slices"] = list(dict.fromkeys([*machine["slices"], name]))
            break
    else:
        machines.append({"started": values["started"], **facts, "slices": [name]})
    write_atomic(options.out / "environment.json", json.dumps(machines, indent=1) + "\n")


def driver() -> str | None:
    """The NVIDIA driver's version, None where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    main()
