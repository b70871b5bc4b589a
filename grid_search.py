"""``python grid_search.py …`` is ``convmixer grid-search …``, as the study's document has it."""

import sys

from convmixer.__main__ import main

if __name__ == "__main__":
    main(["grid-search", *sys.argv[1:]])
