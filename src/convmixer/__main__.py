"""``python -m convmixer`` is ``convmixer``."""

from convmixer.runtime.signals import leave_imports_at_once


def main() -> None:
    """Runs the command line; Ctrl-C ends it without a traceback from the first moment on."""
    leave_imports_at_once()
    from convmixer.cli import main as run

    run()


if __name__ == "__main__":
    main()
