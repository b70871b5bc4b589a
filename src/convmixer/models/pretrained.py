"""Models as folders in the layout of Hugging Face's hub, as timm has it: config.json, model.safetensors, README.md.

timm loads such a folder (``timm.create_model("local-dir:FOLDER", pretrained=True)``) where it has the architecture
itself, and any other after :func:`convmixer.models.timm_models.register_with_timm`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convmixer.config import Engine, ModelConfig
from convmixer.errors import InputError
from convmixer.files import write_atomic
from convmixer.manifest import is_pretrained
from convmixer.models.convmixer import ConvMixer
from convmixer.models.factory import build_model, require_fit
from convmixer.models.weights import load_weights
from convmixer.presets import MODELS, OF_TIMM, HubConfig

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
KEY = "convmixer"
"""Of our own description in config.json."""
GENERIC = "convmixer_lab"
"""What the architecture is called in config.json where timm has none like it; see :mod:`~.timm_models`."""


def hub_config(
    model: ConvMixer, *, about: Mapping[str, Any] | None = None, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """What config.json says of a model: what timm reads, and what rebuilds the network here.

    Args:
        model: its ``pretrained_cfg`` says what images it takes.
        about: more of our own description, beside the architecture.
        labels: names of the classes.
    """
    cfg, name = model.pretrained_cfg, _name_in_timm(model.config)
    channels = next(model.stem.parameters()).shape[1]
    arguments: dict[str, Any] = {} if name else asdict(model.config)
    if channels != 3:
        arguments["in_chans"] = channels
    described = {key: cfg[key] for key in ("input_size", "mean", "std") if key in cfg}
    config: dict[str, Any] = {
        "architecture": name or GENERIC,
        "num_classes": model.n_classes,
        "num_features": model.num_features,
        "global_pool": "avg",
        "label_names": list(labels),
        "model_args": arguments,
        "pretrained_cfg": {
            "custom_load": False,
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            **described,
            "num_classes": model.n_classes,
            "first_conv": "stem.0",
            "classifier": "head",
        },
        KEY: {**(about or {}), "architecture": asdict(model.config)},
    }
    return {key: value for key, value in config.items() if value not in ([], {})}


def save_pretrained(model: ConvMixer, folder: str | Path) -> None:
    """Writes config.json and model.safetensors into ``folder``, which is made where it is missing.

    Raises:
        InputError: the folder holds a run.
    """
    from safetensors.torch import save

    place = Path(folder)
    check_folder(place)
    place.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(place / WEIGHTS, save(state, {"format": "pt"}))
    write_atomic(place / CONFIG, json.dumps(hub_config(model), indent=2) + "\n")


def check_folder(folder: Path) -> None:
    """Raises InputError if a model cannot be written to ``folder``: only one like it is replaced."""
    there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if others := sorted(set(there) - {CONFIG, WEIGHTS, CARD}):
        raise InputError(f"{folder}: holds other things ({others[0]}); name a new folder, or one that is empty.")
    if CONFIG in there and not is_pretrained(folder):
        raise InputError(f"{folder}: has a config.json of something else; name a new folder, or one that is empty.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a new folder, or one that is empty.")


def from_pretrained(source: str | Path, *, revision: str | None = None, engine: Engine = "auto") -> ConvMixer:
    """A model from a folder, or from a repository on Hugging Face's hub, with its weights, in evaluation mode.

    Args:
        source: what :func:`save_pretrained` or ``convmixer export --format hub`` wrote; or OWNER/REPOSITORY, also one
            of timm's.
        revision: branch, tag or commit of the repository.
        engine: how the model is executed.

    Raises:
        InputError: there is nothing, or no ConvMixer.
    """
    place = Path(source)
    local = place.is_dir()
    if not local and str(source).count("/") != 1:
        raise InputError(f"{source}: is neither a folder nor OWNER/REPOSITORY on the hub; correct it.")
    if local and not is_pretrained(place):
        raise InputError(f"{source}: holds no model; give a folder that convmixer export --format hub wrote.")
    found = [place / name if local else download(str(source), name, revision) for name in (CONFIG, WEIGHTS)]
    config = HubConfig.read(found[0])
    cfg, architecture = config.pretrained_cfg, config.network
    channels = cfg.input_size[0] if cfg.input_size else 3
    require_fit(found[1], architecture, config.num_classes, channels)
    model = build_model(architecture, config.num_classes, channels, engine)
    load_weights(model, found[1])
    described = {name: value for name, value in vars(cfg).items() if value is not None}
    model.default_cfg |= {"architecture": config.architecture, **described}
    if config.label_names:
        model.default_cfg["label_names"] = config.label_names
    return model.eval()


def push_folder(folder: str | Path, repository: str, *, private: bool = False) -> str:
    """Uploads a folder as it is to the hub, as one commit; makes the repository where it is missing.

    Args:
        folder: config.json, model.safetensors and README.md.
        repository: OWNER/REPOSITORY, or REPOSITORY of one's own.
        private: of a new repository.

    Returns:
        Its address.

    Raises:
        InputError: huggingface-hub is not installed, or the hub refuses; who has not logged in does so with
            ``hf auth login``.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise InputError(f"{repository}: uploading needs huggingface-hub; {_INSTALL}.") from None
    api = HfApi(library_name="convmixer-lab")
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=str(folder), commit_message="Upload a ConvMixer")
    except Exception as error:  # network, login, names: the library has dozens of them
        raise InputError(f"{repository}: cannot be uploaded to the hub ({_reason(error)}).") from None
    return str(url)


def push_to_hub(model: ConvMixer, repository: str, *, private: bool = False) -> str:
    """:func:`save_pretrained` into a repository on the hub; arguments and errors as :func:`push_folder`."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        return push_folder(folder, repository, private=private)


def download(repository: str, file: str, revision: str | None = None) -> Path:
    """A file of a repository on the hub, in the hub's own cache. Raises InputError if it cannot be had."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise InputError(f"{repository}: is no folder, and the hub needs huggingface-hub; {_INSTALL}.") from None
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # network, login, names: the library has dozens of them
        raise InputError(f"{repository}: has no {file} on the hub ({_reason(error)}).") from None


_INSTALL = "pip install 'convmixer-lab[hub]'"


def _name_in_timm(config: ModelConfig) -> str | None:
    """The name that timm has for an architecture; what matters in training alone is no part of it."""

    def network(of: ModelConfig) -> dict[str, Any]:
        return asdict(of) | {"dropout": 0.0, "drop_path": 0.0, "bottleneck_factor": 0}

    return next((name for name in OF_TIMM if network(MODELS[name].architecture) == network(config)), None)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
