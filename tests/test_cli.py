"""The command line as a person, or a script, meets it: real processes for what a process does, calls for the rest."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convmixer.data import Dataset
from convmixer.runs import RunDir
from convmixer.training import train
from tests.helpers.cli import Run
from tests.helpers.runs import tiny_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """A finished run whose model knows the digits."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train(tiny_config(dim=32, depth=2, epochs=8, batch_size=64, crop="none", randaugment=0), out, dataset=digits)
    return out


@pytest.fixture
def picture(tmp_path: Path, digits: Dataset) -> Path:
    """A test image of the digits as a PNG, and its label as its name."""
    test = digits.splits["test"]
    path = tmp_path / f"{test.labels[0]}.png"
    Image.fromarray(test.images[0, 0].numpy()).save(path)
    return path


# Start-up


HEAVY = ("torch", "scipy", "sklearn", "matplotlib", "optuna", "PIL", "huggingface_hub")


@pytest.mark.parametrize("command", ["", "train", "grid-search", "bench"])
def test_help_imports_nothing_heavy(command: str) -> None:
    """Start-up takes a fraction of a second, as long as none of these is imported."""
    script = f"import sys\nsys.argv[1:] = {[*command.split(), '--help']}\nfrom convmixer.cli import main\n"
    script += f"try:\n    main()\nfinally:\n    print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "usage: convmixer" in done.stdout


def test_import_is_light() -> None:
    """Names are loaded when they are used."""
    script = f"import sys, convmixer\nprint([m for m in ({HEAVY} + ('numpy', 'tyro')) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n")


@pytest.mark.parametrize(
    "command", ["", "train", "evaluate", "predict", "models", "data", "bench", "experiment", "report"]
)
def test_help_of_every_command(convmixer: Run, command: str) -> None:
    status, out, _ = convmixer(*command.split(), "--help")
    assert status == 0
    assert "usage: convmixer" in out


def test_help_shows_the_defaults_of_the_recipe(convmixer: Run) -> None:
    defaults = {
        recipe: " ".join(convmixer("train", "--recipe", recipe, "--help")[1].split())
        for recipe in ("baseline", "reference")
    }
    assert "Peak learning rate. (default: 0.01)" in defaults["baseline"]
    assert "Peak learning rate. (default: 0.05)" in defaults["reference"]


# Training


TINY = ("--dataset", "digits", "--dim", 8, "--depth", 1, "--kernel-size", 3, "--epochs", 1, "--device", "cpu")


@pytest.mark.slow
def test_train_prints_a_table_or_json(convmixer: Run) -> None:
    status, out, err = convmixer("train", *TINY, "--out", "table")
    assert status == 0
    for part in ("table", "test accuracy", "convmixer, ", "best on validation"):
        assert part in out
    assert "epoch 1/1" in err
    status, out, _ = convmixer("train", *TINY, "--out", "json", "--json")
    assert status == 0
    assert json.loads(out) == {**json.loads(Path("json/summary.json").read_text()), "run": "json"}


@pytest.mark.slow
def test_without_out_a_new_directory_is_named_after_the_run(convmixer: Run) -> None:
    names = []
    for _ in range(2):
        status, out, _ = convmixer("train", *TINY, "--json")
        assert status == 0
        names.append(Path(json.loads(out)["run"]))
    assert names[0].parent == Path("results/runs")
    assert names[0].name.startswith("convmixer-digits-baseline-s0-")
    assert names[1].name == f"{names[0].name}-2"
    status, out, _ = convmixer("train", *TINY, "--json", "--resume")
    assert Path(json.loads(out)["run"]) == names[1]


@pytest.mark.slow
def test_flags_recipe_and_config_file(convmixer: Run) -> None:
    convmixer("train", *TINY, "--recipe", "reference", "--weight_decay", 0.5, "--model=convmixer_rh", "--out", "a")
    config = RunDir("a").config()
    assert (config.recipe, config.train.schedule, config.train.weight_decay) == ("reference", "triangular", 0.5)
    assert (config.model, config.architecture.head, config.architecture.dim) == ("convmixer_rh", "rh", 8)
    status, _, err = convmixer("train", "--config", "a/config.json", "--seed", 5, "--out", "b")
    assert status == 0, err
    assert RunDir("b").config() == config.replace(seed=5)


@pytest.mark.slow
@pytest.mark.parametrize("flag", [("--hidden_dim", "12"), ("--hidden-dim=12",), ("--dim", "12")])
def test_the_documents_name_for_dim(convmixer: Run, flag: tuple[str, ...]) -> None:
    status, _, err = convmixer("train", *TINY, *flag, "--out", "run")
    assert status == 0, err
    assert RunDir("run").config().architecture.dim == 12


@pytest.mark.slow
def test_resume_needs_the_directory_alone(convmixer: Run) -> None:
    convmixer("train", *TINY, "--seed", 3, "--out", "run")
    summary = json.loads(Path("run/summary.json").read_text())
    RunDir("run").reopen()
    status, out, err = convmixer("train", "--out", "run", "--resume", "--json")
    assert status == 0, err
    again = json.loads(out)
    assert (again["seed"], again["test_loss"]) == (3, summary["test_loss"])


def test_a_diverged_run_fails_with_a_sentence(convmixer: Run) -> None:
    status, out, err = convmixer(
        "train", *TINY, "--epochs", 3, "--lr", "1e30", "--clip-norm", 0, "--warmup-epochs", 0, "--out", "run"
    )
    assert status == 1
    assert "diverged" in out
    assert "last finite loss" in err
    assert "Traceback" not in err


# The document's own lines


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "train.py --model convmixer --epochs 25 --batch_size 512",
        "train.py --model convmixer --hidden_dim 512 --epochs 25",
        "train.py --model convmixer_rh --epochs 25",
        "grid_search.py --search_space lr,wd,batch_size",
    ],
)
def test_the_documents_lines_ask_for_cifar10(line: str, repository: Path, tmp_path: Path) -> None:
    """They are understood as they stand; here there is no CIFAR-10, and the message says what to do."""
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    done = subprocess.run(
        [sys.executable, *line.split(), "--out", str(tmp_path / "run"), "--data-dir", str(tmp_path / "data")],
        cwd=repository, capture_output=True, text=True, timeout=120, env={**os.environ, **nowhere},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    for part in ("cifar-10-binary.tar.gz", "--dataset digits"):
        assert part in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_documents_import(repository: Path) -> None:
    code = (
        "from models import ConvMixer\n"
        "model = ConvMixer(dim=256, depth=8, kernel_size=9, patch_size=2, n_classes=10)\n"
        "print(sum(p.numel() for p in model.parameters()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == "708874\n"


# Evaluation and prediction


@pytest.mark.slow
def test_evaluate(convmixer: Run, trained: Path) -> None:
    status, out, err = convmixer("evaluate", trained)
    assert status == 0
    for part in ("accuracy", "top-5 accuracy", "calibration", "img/s", "precision"):
        assert part in out
    for name in ("evaluation_test.json", "confusion_test.png", "calibration_test.png"):
        assert name in err
    for split in ("test", "val", "train"):
        status, out, _ = convmixer("evaluate", trained, "--split", split, "--json")
        assert status == 0
        figures = json.loads(out)
        assert figures["images"] == RunDir(trained).dataset().sizes[split]
        correct = sum(row[i] for i, row in enumerate(figures["confusion"]))
        assert figures["accuracy"] == pytest.approx(correct / figures["images"])
        assert len(figures["per_class"]) == 10


def test_predict_files_folders_and_stdin(
    convmixer: Run, trained: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, _ = convmixer("predict", trained, picture, "--top-k", 2)
    assert status == 0
    assert out.startswith(f"{picture}: {picture.stem} ")
    assert out.count("%") == 2
    status, out, _ = convmixer("predict", trained, picture.parent, "--json")
    answer = json.loads(out)
    assert answer["image"] == str(picture)
    assert answer["top"][0]["class"] == picture.stem
    probabilities = [row["probability"] for row in answer["top"]]
    assert probabilities == sorted(probabilities, reverse=True)
    stdin = io.TextIOWrapper(io.BytesIO(picture.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    status, out, _ = convmixer("predict", trained, "-", "--json")
    assert json.loads(out) == {**answer, "image": "-"}


def test_predict_agrees_with_evaluate(convmixer: Run, trained: Path, digits: Dataset, tmp_path: Path) -> None:
    test = digits.splits["test"]
    for i in range(100):
        Image.fromarray(test.images[i, 0].numpy()).save(tmp_path / f"{i:03}.png")
    _, out, _ = convmixer("predict", trained, tmp_path, "--json")
    predicted = [int(json.loads(line)["top"][0]["class"]) for line in out.splitlines()]
    from convmixer.inference import load

    logits = load(trained, device="cpu").logits(test.images[:100].numpy())
    assert predicted == logits.argmax(1).tolist()


def test_a_bad_image_does_not_stop_the_others(convmixer: Run, trained: Path, picture: Path, tmp_path: Path) -> None:
    broken, absent, empty = tmp_path / "broken.jpg", tmp_path / "absent.png", tmp_path / "folder"
    broken.write_bytes(picture.read_bytes()[:40])
    empty.mkdir()
    status, out, err = convmixer("predict", trained, broken, picture, absent, empty, picture)
    assert status == 2
    assert [line.partition(":")[0] for line in out.splitlines()] == [str(picture)] * 2
    assert len(err.splitlines()) == 3
    for name, line in zip((broken, absent, empty), err.splitlines(), strict=True):
        assert str(name) in line


def test_photographs_of_any_kind(convmixer: Run, trained: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    for name, mode in (("a.jpg", "RGB"), ("b.png", "RGBA"), ("c.bmp", "L"), ("d.webp", "RGB"), ("e.png", "P")):
        Image.fromarray(noise).convert(mode).save(tmp_path / name)
    status, out, err = convmixer("predict", trained, tmp_path)
    assert (status, len(out.splitlines())) == (0, 5), err


# Searches


@pytest.mark.slow
def test_grid_search(convmixer: Run) -> None:
    line = ("grid-search", *TINY, "--batch-size", 32, "--values", "lr=0.01,0.1", "--values", "wd=0.1", "--seeds", 2)
    status, out, err = convmixer(*line)
    assert status == 0, err
    for part in ("mean val accuracy", "winner: lr", "mean ± 95% CI"):
        assert part in out
    assert "2 of 2: lr 0.1, weight_decay 0.1: val" in err
    (folder,) = Path("results/grid_search").iterdir()
    content = json.loads((folder / "grid_search.json").read_text())
    assert [row["values"] for row in content["trials"]] == [{"lr": lr, "weight_decay": 0.1} for lr in (0.01, 0.1)]
    status, out, err = convmixer(*line, "--json")  # finds itself again, and has nothing left to do
    assert (status, err) == (0, "")
    assert json.loads(out)["trials"] == content["trials"]


def test_a_search_without_a_winner_fails(convmixer: Run) -> None:
    hopeless = ("--clip-norm", 0, "--warmup-epochs", 0, "--epochs", 3, "--out", "search")
    status, out, err = convmixer("grid-search", *TINY, "--values", "lr=1e30", *hopeless)
    assert status == 1
    assert "diverged" in out
    assert "no winner" in err


# Lists


@pytest.mark.slow
def test_models(convmixer: Run) -> None:
    status, out, _ = convmixer("models", "--json")
    rows = {row["model"]: row for row in json.loads(out)}
    assert status == 0
    assert rows["convmixer_256_8_k5"]["parameters"] == 594_186
    assert rows["convmixer_1536_20"]["image_size"] == 224
    assert all(row["multiply_adds"] > 1e8 for row in rows.values())
    status, out, _ = convmixer("models")
    assert "594,186" in out


def test_data(convmixer: Run) -> None:
    status, out, _ = convmixer("data", "digits", "--json")
    info = json.loads(out)
    assert status == 0
    assert sum(info["sizes"].values()) == 1797
    assert (info["channels"], info["image_size"], len(info["classes"])) == (1, 8, 10)
    assert "test" in convmixer("data")[1]


@pytest.mark.slow
def test_bench(convmixer: Run) -> None:
    small = ("--models", "convmixer", "--what", "infer", "--batch-sizes", 2, "--image-size", 8, "--rounds", 1)
    status, out, err = convmixer("bench", *small, "--settings", "fast", "--out", "records.json")
    assert status == 0, err
    assert "÷ plain" in out
    assert {record["setting"] for record in json.loads(Path("records.json").read_text())} == {"plain", "fast"}
    status, out, _ = convmixer("bench", *small, "--explain")
    assert status == 0
    assert "act_norm" in out


@pytest.mark.slow
def test_experiment(convmixer: Run) -> None:
    line = ("experiment", "classifier", "--dataset", "digits", "--profile", "smoke", "--seeds", 1)
    status, out, err = convmixer(*line)
    assert status == 0, err
    assert "ConvMixerRH" in out
    assert "3/3" in err
    assert "±" not in out  # one seed has no interval
    status, out, err = convmixer(*line, "--json")
    assert "3 of 3 runs are there already" in err
    (shown,) = json.loads(out)["experiments"]
    assert [row["label"] for row in shown["rows"]] == ["base 32/2", "ConvMixerRH", "ConvMixerLC"]
    record = json.loads(Path("results/smoke-digits/experiments/classifier.json").read_text())
    assert (Path("results/smoke-digits/report/report.html")).is_file()
    assert record["command"][:3] == ["convmixer", "experiment", "classifier"]
    status, _, err = convmixer(*line[:4], "--out", "results/smoke-digits", "--profile", "cpu")
    assert status == 2
    assert "profile smoke, not cpu" in err


# Bad input: exit status 2, a sentence, no traceback


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --model convmixr", "did you mean 'convmixer'"),
        ("train --recipe refrence", "did you mean 'reference'"),
        ("train --kernel-size 4", "choose 3 or 5"),
        ("train --kernel-size five", "--kernel-size"),
        ("train --epochs 0", "--epochs: 0"),
        ("train --lr nan", "--lr"),
        ("train --dataset cifar", "did you mean 'cifar10'"),
        ("train --dataset digits --patch-size 3", "choose one of 1, 2, 4, 8"),
        ("train --dataset folder:nowhere", "nowhere"),
        ("train --dim", "--dim"),
        ("train --dmi 4", "--dim"),
        ("train --config nothing.json", "nothing.json"),
        ("train --config a.json --model convmixer_rh", "takes the place"),
        ("train --dataset digits --out file/run", "file/run"),
        ("evaluate nowhere", "nowhere"),
        ("evaluate", "Run directory"),
        ("predict nowhere a.png", "nowhere"),
        ("evaluate . --split tset", "tset"),
        ("data cifr10", "did you mean 'cifar10'"),
        ("bench --settings fats", "did you mean 'fast'"),
        ("bench --rounds 0", "at least 1"),
        ("experiment hiden_dim", "did you mean 'hidden_dim'"),
        ("experiment", "choose from published"),
        ("experiment all --seeds 0", "--seeds: 0"),
        ("experiment all --profile smok", "smok"),
        ("experiment classifier --profile smoke --dataset folder:nowhere", "nowhere"),
        ("grid-search --search-space lr,depht", "did you mean 'depth'"),
        ("grid-search --values lr=0.1..0.2", "needs a list"),
        ("grid-search --sampler tpee", "tpe"),
        ("grid-search --sampler tpe --storage sqlite:///trials --dataset digits", "'sqlite' is not a kind"),
        ("grid-search --protocol original", "held-out"),
        ("grid-search --model convmixr", "did you mean 'convmixer'"),
        ("trian", "train"),
        ("--verison", "did you mean '--version'?"),
        ("--epochs 3", "as in convmixer train --epochs"),
        ("train --dataset cifar10 --data-dir nowhere --out .", "holds other files"),  # before the data are looked for
    ],
)
def test_bad_input_gets_a_sentence(convmixer: Run, line: str, message: str) -> None:
    Path("file").write_text("not a folder")
    status, out, err = convmixer(*line.split())
    assert status == 2
    assert message in " ".join((out + err).split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--batch-size", "0"), "--batch-size: 0"),
        (("predict",), "no image given"),
        (("predict", "--top-k", "0", "a.png"), "--top-k: 0"),
    ],
)
def test_bad_input_with_a_good_run(convmixer: Run, trained: Path, arguments: tuple[str, ...], message: str) -> None:
    status, _, err = convmixer(arguments[0], trained, *arguments[1:])
    assert status == 2
    assert message in err


def test_a_run_that_is_not_finished_cannot_be_used(convmixer: Run, trained: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    started.mkdir()
    for name in ("config.json", "dataset.json"):
        (started / name).write_text((trained / name).read_text())
    for command in (("evaluate", started), ("predict", started, "a.png")):
        status, _, err = convmixer(*command)
        assert status == 2
        assert "continue it with --resume" in err


@pytest.mark.slow
def test_an_internal_failure_is_not_bad_input(repository: Path) -> None:
    code = "import convmixer.cli as c, convmixer.cli.defaults as d; d.run_config = lambda *a: 1 / 0; c.main(['train'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.slow
def test_output_that_nobody_reads_is_no_failure() -> None:
    command = f"{sys.executable} -m convmixer train --help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage")
    assert "Traceback" not in done.stderr
