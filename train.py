"""``python train.py …`` is ``convmixer train …``, as the study's document has it."""

import sys

from convmixer.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
