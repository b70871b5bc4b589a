"""``python -m convmixer`` is ``convmixer``."""

from collections.abc import Sequence

from convmixer.runtime.signals import interrupt_commands_only


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line, ``sys.argv`` by default, and exits; a signal ends it without a traceback at any moment."""
    interrupt_commands_only()
    from convmixer.cli import main as run

    run(arguments)


if __name__ == "__main__":
    main()
