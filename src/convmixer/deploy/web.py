"""A run as a static page that classifies pictures in the browser, with nothing loaded from anywhere else."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from convmixer.deploy.check import CheckImages, Comparison, check_images, compare, require_equal
from convmixer.deploy.formats import onnx_graph
from convmixer.deploy.source import Source
from convmixer.errors import InputError
from convmixer.files import cache_dir, make_cache_dir, temporary_folder, write_atomic
from convmixer.inference.cam import affine_head
from convmixer.inference.deployed import Answers
from convmixer.inference.model_file import LOGITS, PROBABILITIES, open_model_file
from convmixer.models import ConvMixer
from convmixer.runs import RunDir

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package's archive, as npm's registry gives it."""
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What the page needs of it."""
PAGE = ("index.html", "site.css", "app.js", "pixels.js")
MAPS = "maps"
"""Output of the graph: class activation maps (N, K, H', W') float32, where they are exact."""
_SAMPLES = 8
_SECONDS = 300.0  # that npm may take


@dataclass(frozen=True)
class Site:
    """A page that was written, whose model was found to answer as the run does."""

    folder: Path
    bytes: int
    runtime: str
    """In which the graph was checked."""
    maps: bool
    """Whether the page shows class activation maps."""
    check: Comparison

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"folder": str(self.folder), "check": self.check.to_dict()}


class AnswersWithMaps(nn.Module):
    """Images (N, C, H, W) uint8 → logits, probabilities (N, K), and class activation maps (N, K, H', W').

    Args:
        answers: of a network whose head is affine, so that the mean of a map and the head's bias are the logit.
        weight: (K, dim), of that head.
    """

    def __init__(self, answers: Answers, weight: Tensor) -> None:
        super().__init__()
        self.deployed = answers.deployed
        self.register_buffer("weight", weight.float()[:, :, None, None].contiguous())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels to all three."""
        model = self.deployed.model
        features = model.blocks(model.stem(self.deployed.normalize(images)))  # type: ignore[operator]
        logits = model.forward_head(features).float()  # type: ignore[operator]
        return logits, torch.softmax(logits, 1), F.conv2d(features, self.weight)  # type: ignore[arg-type]


def export_site(
    path: str | Path,
    out: str | Path | None = None,
    *,
    images: CheckImages | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Site:
    """Writes the page of a finished run: HTML, style, scripts, model and runtime, to be served as they are.

    Args:
        path: the run directory.
        out: the folder; by default ``web`` in the run directory. A page that is there already is replaced.
        images: to check the model on, and to offer some of; by default the run's test images.
        progress: called with the number of images checked.

    Raises:
        InputError: no finished run, a folder that holds other things, a network that cannot be exported, or no npm to
            fetch the runtime with.
        RuntimeError: the model does not answer as the run does; nothing is kept.
    """
    run = RunDir.existing(path)
    folder = run.path / "web" if out is None else Path(out)
    _check_folder(folder)
    source = Source.of_run(run)
    runtime = runtime_archive()
    given = check_images(run) if images is None else images
    with temporary_folder(folder.absolute().parent, folder.absolute().name) as temporary:
        place = temporary / "site"
        (place / "ort").mkdir(parents=True)
        network = source.answers.deployed.model
        affine = affine_head(network.head) if isinstance(network, ConvMixer) else None
        module = None if affine is None else AnswersWithMaps(source.answers, affine[0])
        outputs = (LOGITS, PROBABILITIES) if module is None else (LOGITS, PROBABILITIES, MAPS)
        (place / "model.onnx").write_bytes(onnx_graph(source, module, outputs).SerializeToString())
        written = open_model_file(place / "model.onnx", trusted=True)
        found = compare(source.predictor(), written, given, exact=source.exact_logits, progress=progress)
        require_equal(found, written)
        for name in PAGE:
            content = resources.files("convmixer.deploy").joinpath("site", name).read_bytes()
            (place / name).write_bytes(content)
        _unpack(runtime, place / "ort")
        samples = _write_samples(given, place) if given.labels is not None else []
        (place / "model.json").write_text(json.dumps(_about(source, samples)), encoding="utf-8")
        size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        if folder.exists():
            folder.rename(temporary / "before")
        place.rename(folder)
    return Site(folder, size, written.runtime, module is not None, found)


def runtime_archive() -> Path:
    """The archive of onnxruntime-web in the user's cache; npm fetches it the first time.

    Raises:
        InputError: there is no npm, it failed, or what it fetched is not the archive that was pinned.
    """
    archive = cache_dir() / f"{PACKAGE}-{VERSION}.tgz"
    if archive.is_file() and _is_pinned(archive.read_bytes()):
        return archive
    npm = shutil.which("npm")
    if npm is None:
        raise InputError("--format web: fetches onnxruntime-web with npm, which is not here; install Node.js.")
    with tempfile.TemporaryDirectory() as folder:
        line = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", folder, "--silent", "--ignore-scripts"]
        try:
            done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
        except subprocess.TimeoutExpired:
            raise InputError(f"--format web: npm has not fetched {PACKAGE} in {_SECONDS:.0f} s; try again.") from None
        fetched = list(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or len(fetched) != 1:
            why = f" ({reason[0].rstrip('.')})" if reason else ""
            raise InputError(f"--format web: npm cannot fetch {PACKAGE}@{VERSION}{why}; is there a network?")
        content = fetched[0].read_bytes()
    if not _is_pinned(content):
        raise InputError(
            f"--format web: what npm fetched is not the {PACKAGE} {VERSION} that is known to be whole; ask your "
            "registry's keeper."
        )
    make_cache_dir()
    write_atomic(archive, content)
    return archive


def _is_pinned(content: bytes) -> bool:
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}" == INTEGRITY


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as package:
        for name in (*(f"dist/{name}" for name in RUNTIME), "package.json"):
            member = package.extractfile(f"package/{name}")
            assert member is not None, name  # the archive is the pinned one
            (folder / Path(name).name).write_bytes(member.read())


def _check_folder(folder: Path) -> None:
    """Raises InputError if something else than such a page would be replaced."""
    if not folder.absolute().parent.is_dir():
        raise InputError(f"--out: {folder.parent} is no folder; make it, or choose another place.")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"--out: {folder} is no folder; choose another place.")
    if folder.is_dir() and any(folder.iterdir()) and not {*PAGE} <= {file.name for file in folder.iterdir()}:
        raise InputError(f"--out: {folder} holds other files; choose another folder.")


def _write_samples(given: CheckImages, place: Path) -> list[str]:
    """A few test images, of different classes as far as there are some, as PNG files."""
    assert given.labels is not None
    firsts = {int(label): index for index, label in reversed(list(enumerate(given.labels)))}
    names = []
    for number, index in enumerate(firsts[label] for label in sorted(firsts)[:_SAMPLES]):
        pixels = given.images[index]
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        names.append(f"sample-{number + 1}.png")
        image.save(place / names[-1])
    return names


def _about(source: Source, samples: list[str]) -> dict[str, Any]:
    """What the page says of the model."""
    info = source.info
    accuracy = info.origin.test_accuracy
    tested = f", {100 * accuracy:.1f} % right on its test images" if accuracy is not None else ""
    description = f"A ConvMixer trained on {info.origin.dataset}{tested}; {len(info.classes)} classes."
    return {"title": info.origin.run, "description": description, "model": asdict(info), "samples": samples}
