"""Named models and recipes, each derived from a named base by the few fields that change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convmixer.config import AugmentConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from convmixer.errors import InputError, nearest
from convmixer.manifest import is_pretrained, read_record
from convmixer.records import build, read_json


@dataclass(frozen=True)
class ModelPreset:
    """An architecture and the data that it was made for."""

    architecture: ModelConfig
    n_classes: int = 10
    image_size: int = 32
    source: str = "the study's document"
    purpose: str = ""
    """What it is for, in a few words."""
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    """Of the channels of the training images, CIFAR-10's by default."""
    std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616)


_BASELINE = ModelConfig(dim=256, depth=8, kernel_size=9, patch_size=2)
_PAPER = "arXiv 2201.09792"


def _imagenet(purpose: str, **fields: Any) -> ModelPreset:
    statistics: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # ImageNet's
    architecture = replace(_BASELINE, **fields)
    return ModelPreset(architecture, n_classes=1000, image_size=224, source=_PAPER, purpose=purpose, **statistics)


def _small(purpose: str, source: str = "the study's document", **fields: Any) -> ModelPreset:
    return ModelPreset(replace(_BASELINE, **fields), source=source, purpose=purpose)


MODELS: dict[str, ModelPreset] = {
    "convmixer": _small("the place to begin: images of about 32 pixels"),
    "convmixer_rh": _small("the study's variant with a deeper head", head="rh"),
    "convmixer_lc": _small("the study's variant with a normalised head", head="lc"),
    "convmixer_bn": _small("the study's variant with a bottleneck in each block", branch="bottleneck"),
    "convmixer_256_8_k5": _small(
        "the same with small kernels: faster", "the authors' short CIFAR-10 run", kernel_size=5
    ),
    "convmixer_256_8_k9": _small("another name of convmixer"),
    "convmixer_512_8_k5": _small("more accurate, four times the work", dim=512, kernel_size=5),
    "convmixer_512_8_k9": _small("the most accurate of the small ones", dim=512),
    # timm's names
    "convmixer_1536_20": _imagenet("photographs; the paper's most accurate", dim=1536, depth=20, patch_size=7),
    "convmixer_768_32": _imagenet(
        "photographs; the paper's smaller one", dim=768, depth=32, kernel_size=7, patch_size=7, activation="relu"
    ),
    "convmixer_1024_20_ks9_p14": _imagenet("photographs; large patches: fastest", dim=1024, depth=20, patch_size=14),
}


OF_TIMM = tuple(name for name, preset in MODELS.items() if preset.image_size == 224)
"""The architectures that timm has, by its names."""


@dataclass(frozen=True, kw_only=True)
class _Own:
    architecture: ModelConfig


@dataclass(frozen=True, kw_only=True)
class _Images:
    input_size: tuple[int, int, int] | None = None
    """(C, H, W)."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """What is read of the ``config.json`` of a model in the layout of Hugging Face's hub, ours or timm's."""

    architecture: str
    num_classes: int
    pretrained_cfg: _Images
    label_names: tuple[str, ...] = ()
    convmixer: _Own | None = None
    where: str = "config.json"

    @classmethod
    def read(cls, file: Path) -> HubConfig:
        """The file's content. Raises InputError if it is another one."""
        values = read_json(file)
        return build(cls, values | {"where": str(file)} if isinstance(values, dict) else values, str(file), others=True)

    @property
    def network(self) -> ModelConfig:
        """The architecture. Raises InputError if it is no ConvMixer."""
        if self.convmixer is not None:
            return self.convmixer.architecture
        if self.architecture not in OF_TIMM:
            raise InputError(f"{self.where}: {self.architecture!r} is no ConvMixer; give a model that is one.")
        return MODELS[self.architecture].architecture


@dataclass(frozen=True)
class Recipe:
    """How to train, whatever the model and the data."""

    description: str
    augment: AugmentConfig
    train: TrainConfig


_SHIFTED = AugmentConfig(crop="pad", crop_fill="reflect")
_MUON = TrainConfig(
    optimizer="muon",
    lr=0.01,
    muon_lr=0.02,
    momentum=0.95,
    weight_decay=0.05,
    decay_norms=False,
    schedule="linear",
    tta="flip",
)

RECIPES: dict[str, Recipe] = {
    # The document names the ingredients (cosine annealing, RandAugment, random crop, flip, AdamW, clipping, weight
    # decay 1e-2, AMP) but no peak learning rate; the one that its tuning recommends is taken.
    "baseline": Recipe(
        "as the study's document describes it",
        AugmentConfig(crop="pad", crop_padding=4, randaugment=2),
        TrainConfig(batch_size=512, lr=0.01, weight_decay=0.01),
    ),
    "reference": Recipe(
        "the authors' short CIFAR-10 run, and what the study really ran",
        AugmentConfig(crop="resized", crop_scale=1.0, randaugment=2, randaugment_magnitude=12),
        TrainConfig(
            batch_size=512, lr=0.05, weight_decay=0.005, clip_norm=1.0, schedule="triangular", precision="float16"
        ),
    ),
    # Chosen on the validation part of CIFAR-10; docs/LOG.md has what was tried. No size in them is absolute, so that
    # they suit images and data sets of any size.
    "strong": Recipe(
        "for about 25 epochs: Muon, strong augmentation",
        replace(_SHIFTED, randaugment=2, randaugment_magnitude=12),
        _MUON,
    ),
    "strong-short": Recipe(
        "for about 10 epochs or small networks, which strong augmentation would only keep from learning",
        replace(_SHIFTED, flip_mode="alternating"),
        replace(
            _MUON,
            epochs=10,
            batch_size=128,
            lr=0.015,
            muon_lr=0.03,
            momentum=0.9,
            clip_norm=0.0,
            warmup_epochs=0.5,
            init_residual_gamma=0.3,
            label_smoothing=0.1,
        ),
    ),
    "finetune": Recipe(
        "for trained weights (--init-from): small steps, smallest in the backbone, light augmentation",
        _SHIFTED,
        TrainConfig(
            epochs=20, lr=0.01, backbone_lr_scale=0.1, weight_decay=0.05, decay_norms=False, label_smoothing=0.1
        ),
    ),
}


def model_preset(name: str) -> ModelPreset:
    """The preset called ``name``. Raises InputError, with the nearest name, if there is none."""
    if not isinstance(name, str) or name not in MODELS:
        raise InputError(f"`model`: {name!r} is not a model; {nearest(name, MODELS)}")
    return MODELS[name]


def run_config(model: str | None = None, recipe: str = "baseline", **changes: Any) -> RunConfig:
    """A run's configuration from a model preset, a recipe and the fields that differ from them.

    ``run_config("convmixer_rh", "reference", dataset="digits", epochs=3, dim=64)``

    Args:
        model: a preset; by default that of the weights in ``init_from``, with the architecture and the image size they
            were trained with, else "convmixer".
        recipe: a recipe.
        changes: other fields.

    Raises:
        InputError: unknown preset, recipe or field, or an impossible value.
    """
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise InputError(f"`recipe`: {recipe!r} is not a recipe; {nearest(recipe, RECIPES)}")
    start = changes.get("init_from") if model is None else None
    model, architecture, data = (
        _trained_with(start) if isinstance(start, str) and start else _preset(model or "convmixer")
    )
    if not str(changes.get("dataset", "")).startswith("folder:"):
        data = DataConfig()  # other data sets have the size they have
    base = RunConfig(
        model=model,
        recipe=recipe,
        architecture=architecture,
        data=data,
        augment=RECIPES[recipe].augment,
        train=RECIPES[recipe].train,
    )
    return base.replace(**changes)


def _preset(model: str) -> tuple[str, ModelConfig, DataConfig]:
    return model, model_preset(model).architecture, DataConfig()


def _trained_with(source: str) -> tuple[str, ModelConfig, DataConfig]:
    """Preset, architecture and image size that weights were trained with, as far as their source says so."""
    kind, _, name = source.partition(":")
    if kind == "timm" and (preset := name.partition(".")[0]) in MODELS:
        return preset, MODELS[preset].architecture, DataConfig(image_size=MODELS[preset].image_size)
    file = Path(source) / "config.json"
    if not file.is_file():
        return _preset("convmixer")
    if is_pretrained(file.parent):
        described = HubConfig.read(file)
        size = described.pretrained_cfg.input_size
        return "convmixer", described.network, DataConfig(image_size=size[-1] if size else None)
    read_record(file), read_record(file.with_name("dataset.json"))  # as they were written, or refused
    config = RunConfig.from_dict(read_json(file), where=str(file))
    description = read_json(file.with_name("dataset.json"))
    side = description.get("image_size") if isinstance(description, dict) else None
    return config.model, config.architecture, DataConfig(image_size=side)
