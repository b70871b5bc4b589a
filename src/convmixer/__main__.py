"""``python -m convmixer`` is ``convmixer``."""

from convmixer.cli import main

if __name__ == "__main__":
    main()
