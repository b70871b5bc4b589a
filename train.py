"""``python train.py …`` is ``convmixer train …``, as the study's document has it."""

import sys

from convmixer.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
