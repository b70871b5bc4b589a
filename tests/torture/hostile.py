"""The inputs: how each kind is made from random numbers, and what it is given to."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import random
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.helpers.names import NAMES
from tests.torture.mutations import changed, mutated, text_of, value


@dataclass(frozen=True)
class Kind:
    """A kind of input."""

    name: str
    prepare: Callable[[], Any]
    """Called once in each child, in its folder; what it returns is passed on."""
    attempt: Callable[[random.Random, Any], object]
    """Makes an input and gives it to the program; may raise InputError and SystemExit."""
    weight: float = 1.0
    """Inputs of a batch, relative to the others."""


# Configurations and command lines


def _config_base() -> Any:
    return json.loads(Path("finished/config.json").read_text())


def _try_config(random_: random.Random, base: Any) -> None:
    from convmixer.cli.defaults import read_config

    flat = {**base["architecture"], **base["train"], **base["augment"], "model": "convmixer"}
    values = changed(random_, base if random_.random() < 0.6 else flat)
    file = Path(random_.choice(("c.json", "c.json", "c.yaml")))
    file.write_bytes(text_of(random_, values))
    config, _ = read_config(file)
    json.dumps(config.to_dict()), config.identity_hash()
    from convmixer.runs import default_path

    where = default_path(config).resolve()
    if not where.is_relative_to(Path.cwd()):
        raise AssertionError(f"the run would be written to {where}")


def _flags() -> list[str]:
    from convmixer.config import field_owners

    return ["--" + name.replace("_", "-") for name in field_owners()]


def _try_flags(random_: random.Random, flags: list[str]) -> None:
    from convmixer.cli import _parse

    words = ["train", "grid-search", "evaluate", "predict", "report", "runs", "compare", "data", "models", "recipes"]
    line = [random_.choice([*words, words[0], words[0], str(value(random_, 0))])]
    for _ in range(random_.randrange(6)):
        flag = random_.choice([*flags, "--json", "--out", "--config", "--resume", "--values", "--sampler", "--top-k"])
        flag = flag if random_.random() < 0.9 else flag[: random_.randrange(len(flag) + 1)]
        given = str(random_.choice((value(random_, 0), random_.randrange(-5, 99), random_.random(), "finished")))
        line += random_.choice(([flag, given], [f"{flag}={given}"], [flag], [given]))
    if line[0] != "experiment":
        _parse(line)


def _try_search_space(random_: random.Random, flags: list[str]) -> None:
    from convmixer.presets import run_config
    from convmixer.search.space import SearchConfig

    names = [flag[2:] for flag in flags]
    parts = ["lr", "0.1", "1", "..", ":log", ",", "=", "nan", "1e999", "-1", "", "inf", *names[:12], *NAMES[:4]]
    values = tuple(
        f"{random_.choice(names)}=" + "".join(random_.choice(parts) for _ in range(random_.randrange(1, 6)))
        for _ in range(random_.randrange(3))
    )
    sampler = random_.choice(("grid", "tpe", "random"))
    SearchConfig(values=values, sampler=sampler, seeds=random_.choice((0, 1, 3))).check(run_config())


# What others' directories hold

_RECORDS = (
    *("finished/config.json", "finished/dataset.json", "finished/environment.json", "finished/summary.json"),
    *("finished/metrics.jsonl", "finished/evaluation_test.json", "search/grid_search.json"),
    *("study/experiments/rates.json", "finished/manifest.json", "finished/trackers.json"),
)


def _records() -> dict[Path, bytes]:
    return {Path(name): Path(name).read_bytes() for name in _RECORDS if Path(name).exists()}


def _hostile_record(random_: random.Random, records: dict[Path, bytes]) -> Path:
    path = random_.choice(list(records))
    lines = records[path].splitlines() if path.suffix == ".jsonl" else [records[path]]
    number = random_.randrange(len(lines))
    lines[number] = text_of(random_, changed(random_, json.loads(lines[number])))
    path.write_bytes(b"\n".join(lines))
    return path


def _try_report(random_: random.Random, records: dict[Path, bytes]) -> None:
    from convmixer.report.write import write_report

    path = _hostile_record(random_, records)
    try:
        write_report(path.parts[0], random_.choice(("r.json", "r.json", "r.csv")))
    finally:
        path.write_bytes(records[path])


def _try_listing(random_: random.Random, records: dict[Path, bytes]) -> None:
    from convmixer.runs.listing import list_runs

    path = _hostile_record(random_, records)
    try:
        list_runs(Path(path.parts[0]))
    finally:
        path.write_bytes(records[path])


def _try_page(random_: random.Random, records: dict[Path, bytes]) -> None:
    from convmixer.report.write import write_report

    path = _hostile_record(random_, records)
    try:
        write_report(path.parts[0], random_.choice(("r.html", "r.md", "r.json")))
    finally:
        path.write_bytes(records[path])


def _try_checkpoint(random_: random.Random, _: Any) -> None:
    """A checkpoint with a right checksum and other content."""
    import torch

    from convmixer.errors import InputError
    from convmixer.runs.checkpoint import DamagedCheckpointError, load_checkpoint

    buffer = io.BytesIO()
    torch.save({"records": value(random_), "position": value(random_), "best": {"x": torch.zeros(2)}}, buffer)
    how = random_.random()
    content = _evil_pickle(random_) if how < 0.3 else buffer.getvalue()
    content = mutated(random_, content) if how > 0.6 else content
    seal = b"\nconvmixer sha256 " + hashlib.sha256(content).hexdigest().encode()
    Path("ck").mkdir(exist_ok=True)
    Path("ck/checkpoint.pt").write_bytes(content + seal)
    try:
        load_checkpoint(Path("ck"))
    except DamagedCheckpointError as error:
        raise InputError(str(error)) from None


# Images


def _pictures() -> list[bytes]:
    from PIL import Image

    found = []
    for mode in ("RGB", "L", "RGBA", "P", "CMYK", "I;16", "1", "LA"):
        for format_ in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
            buffer = io.BytesIO()
            try:
                Image.effect_noise((24, 16), 60).convert("L").convert(mode).save(buffer, format_)
            except (OSError, ValueError):
                continue
            found.append(buffer.getvalue())
    return found


def _try_image(random_: random.Random, pictures: list[bytes]) -> None:
    from convmixer.data.images import BadImage, prepared

    content = mutated(random_, random_.choice(pictures))
    with contextlib.suppress(BadImage):
        prepared(content, random_.choice((8, 16)), random_.choice((1, 3)))


def _predictor() -> Any:
    from convmixer.inference import load

    return load("finished", device="cpu", engine="plain"), _pictures()


def _try_stdin(random_: random.Random, prepared: Any) -> None:
    from convmixer.inference import predict_images

    predictor, pictures = prepared
    content = random_.choice(
        (b"", random_.randbytes(random_.randrange(300)), mutated(random_, random_.choice(pictures)))
    )
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(content))
    try:
        list(predict_images(predictor, ["-"]))
    finally:
        sys.stdin = before


# Weights and archives


class _Evil:
    def __init__(self, random_: random.Random) -> None:
        self.random_ = random_

    def __reduce__(self) -> Any:
        import builtins
        import os
        import subprocess

        calls: list[tuple[Any, tuple[Any, ...]]] = [
            (os.system, ("touch CANARY",)),
            (builtins.eval, ("open('CANARY', 'w')",)),
            (builtins.exec, ("open('CANARY', 'w')",)),
            (open, ("CANARY", "w")),
            (os.mkdir, ("CANARY",)),
            (subprocess.call, (["touch", "CANARY"],)),
            (os.rename, ("picture.png", "CANARY")),
        ]
        return self.random_.choice(calls)


def _evil_pickle(random_: random.Random) -> bytes:
    content: Any = _Evil(random_)
    if random_.random() < 0.6:
        content = {"state_dict": {"head.weight": content}, "model": [content]}
    if random_.random() < 0.5:
        return pickle.dumps(content, protocol=random_.randrange(6))
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=random_.random() < 0.7)
    return buffer.getvalue()


def _weights() -> list[tuple[str, bytes]]:
    import torch

    found = [("w.safetensors", Path("finished/model.safetensors").read_bytes())]
    from safetensors.torch import load_file

    state = load_file("finished/model.safetensors")
    for content in (state, {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}):
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=new)
            found.append(("w.pt", buffer.getvalue()))
    return found


def _try_weights(random_: random.Random, files: list[tuple[str, bytes]]) -> None:
    from convmixer.models.weights import read_state_dict

    name, content = random_.choice(files)
    if name == "w.pt" and random_.random() < 0.25:
        content = _evil_pickle(random_)
    if random_.random() < 0.9:
        content = mutated(random_, content)
    Path(name).write_bytes(content)
    read_state_dict(Path(name))


def _archives() -> Any:
    """The set with two images of each class, for the unpacked form that has no published checksums."""
    from convmixer.data.cifar_specs import SPECS

    spec = SPECS["cifar10"]
    small = {part: replace(known, per_class=10) for part, known in spec.content.items()}
    SPECS["cifar10"] = replace(spec, content=small)
    return SPECS["cifar10"]


def _try_archive(random_: random.Random, spec: Any) -> None:
    """A copy in one of its forms, packed or not, that is not what was published."""
    from convmixer.config import DataConfig
    from convmixer.data import cifar

    place = Path("copies") / str(random_.randrange(1 << 30))
    form = random_.choice((spec.python, spec.binary))
    members = _members(random_, spec, form)
    if random_.random() < 0.5:
        for name, content in members.items():
            (place / form.folder).mkdir(parents=True, exist_ok=True)
            (place / form.folder / name).write_bytes(content)
    else:
        place.mkdir(parents=True)
        raw = _packed(random_, form.folder, members)
        (place / form.archive).write_bytes(mutated(random_, raw) if random_.random() < 0.3 else raw)
    try:
        cifar.load(DataConfig(dataset="cifar10", data_dir=str(place), source="none"), None)
    finally:
        shutil.rmtree(place)


def _members(random_: random.Random, spec: Any, form: Any) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for part, names in form.files.items():
        count = spec.content[part].per_class * 10 // len(names)
        for name in names:
            members[name] = random_.randbytes(count * 3073) if form is spec.binary else _evil_pickle(random_)
    members[form.names] = b"\n".join(name.encode() for name in spec.classes)
    victim, how = random_.choice(list(members)), random_.randrange(6)
    if how == 0:
        members[victim] = _evil_pickle(random_)
    elif how == 1:
        members[victim] = mutated(random_, members[victim])
    elif how == 2:
        del members[victim]
    elif how == 3:
        members[victim] = bytes(random_.choice((0, 1, 3073, 1 << 20)))
    return members


def _packed(random_: random.Random, folder: str, members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(random_.choice((f"{folder}/{name}",) * 9 + (f"../../{name}", f"/tmp/{name}")))
            entry.size = len(content)
            if random_.random() < 0.1:
                entry.type, entry.linkname = random_.choice((tarfile.SYMTYPE, tarfile.LNKTYPE)), "/etc/passwd"
                entry.size = 0
            archive.addfile(entry, io.BytesIO(content[: entry.size]))
    return buffer.getvalue()


# Optuna's storage


def _try_journal(random_: random.Random, _: Any) -> None:
    from convmixer.search.storage import open_storage

    folder = Path("journal")
    folder.mkdir(exist_ok=True)
    content = Path("search/optuna.journal").read_bytes()
    (folder / "optuna.journal").write_bytes(mutated(random_, content))
    if random_.random() < 0.5:
        url = random_.choice(("", "sqlite:///x.db", "postgresql", "mysql://a", "file:///etc", *NAMES))
        open_storage(url, folder)
    else:
        open_storage(None, folder)


KINDS = (
    Kind("images", _pictures, _try_image, 8),
    Kind("configurations", _config_base, _try_config, 4),
    Kind("command lines", _flags, _try_flags, 0.3),
    Kind("search spaces", _flags, _try_search_space, 4),
    Kind("records, listed", _records, _try_listing, 2),
    Kind("records, reported", _records, _try_report, 1),
    Kind("records, on pages", _records, _try_page, 0.02),
    Kind("weights", _weights, _try_weights, 4),
    Kind("checkpoints", lambda: None, _try_checkpoint, 2),
    Kind("images on stdin", _predictor, _try_stdin, 2),
    Kind("archives", _archives, _try_archive, 0.2),
    Kind("journals and storages", lambda: None, _try_journal, 0.4),
)
