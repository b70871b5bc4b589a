"""Trained weights that a run starts from: where they come from, and what the run records of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from convmixer.data import DatasetInfo
from convmixer.errors import InputError
from convmixer.manifest import is_pretrained
from convmixer.models import ConvMixer
from convmixer.models.transfer import transfer_weights
from convmixer.models.weights import read_state_dict, to_own_layout
from convmixer.presets import HubConfig
from convmixer.runs import InitialWeights, RunDir

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def initialize(model: ConvMixer, source: str, info: DatasetInfo) -> InitialWeights:
    """Has ``model`` start from the weights at ``source``.

    Args:
        model: with fresh weights, which what cannot be taken over keeps.
        source: a run directory, a folder in the layout of Hugging Face's hub, a file, timm:NAME or
            hub:OWNER/REPOSITORY.
        info: the data; the head of a run with the same classes is taken over.

    Raises:
        InputError: nothing there, unreadable, or weights that do not fit.
    """
    kind, _, name = source.partition(":")
    identity = classes = None
    if kind in _REMOTE and name:
        state = _REMOTE[kind](name)
    elif is_pretrained(Path(source)):
        classes = HubConfig.read(Path(source) / "config.json").label_names or None
        state = read_state_dict(Path(source) / _HUB_FILES[0])
    elif Path(source).is_dir():
        run = RunDir.existing(source)
        identity, classes = run.config().identity_hash(), run.dataset().classes
        if not run.has_weights():
            status = run.status()
            raise InputError(f"`init_from`: {source} has no {run.weights.name}; the run is {status}, let it finish.")
        state = read_state_dict(run.weights)
    else:
        state = read_state_dict(Path(source))
    state = to_own_layout(state)
    taken = transfer_weights(model, state, keep_head=classes is None or tuple(classes) == tuple(info.classes))
    return InitialWeights(source=source, sha256=fingerprint(state), identity=identity, taken=str(taken))


def fingerprint(state: dict[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of named tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _from_timm(name: str) -> dict[str, Tensor]:
    try:
        import timm
    except ImportError:
        raise InputError("`init_from`: timm:NAME needs timm; pip install 'convmixer-lab[hub]'.") from None
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # whatever timm and its downloads raise
        raise InputError(f"`init_from`: timm has no weights of {name!r} for us ({_reason(error)}).") from None


def _from_hub(name: str) -> dict[str, Tensor]:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise InputError(
            "`init_from`: hub:REPOSITORY needs huggingface-hub; pip install 'convmixer-lab[hub]'."
        ) from None
    repository, _, revision = name.partition("@")
    for file in _HUB_FILES:
        try:
            return read_state_dict(Path(hf_hub_download(repository, file, revision=revision or None)))
        except InputError:
            raise
        except Exception as error:  # network, login, names: the library has dozens of them
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue
            raise InputError(f"`init_from`: {repository!r} is unavailable on the hub ({_reason(error)}).") from None
    raise InputError(f"`init_from`: {repository!r} on the hub has neither {' nor '.join(_HUB_FILES)}.")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


_REMOTE: dict[str, Callable[[str], dict[str, Tensor]]] = {"timm": _from_timm, "hub": _from_hub}
