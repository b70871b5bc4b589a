"""Where Optuna keeps the trials of an adaptive search.

Nothing in it is needed to continue: the run directories say what was done. It is how processes share the work.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from convmixer.errors import InputError
from convmixer.files import file_lock

JOURNAL = "optuna.journal"


class _JournalLock(JournalFileOpenLock):
    """Lets one process write, and removes what another one that was killed while it wrote has left of a line.

    Optuna would append to that piece of a line, and nobody could read the journal from there on. Its own locks are
    files that outlive a killed process.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self.journal = journal
        self.lock = file_lock(journal.with_name(f".{journal.name}.lock"))

    def acquire(self) -> bool:
        """Waits for the lock."""
        self.lock.acquire()
        drop_torn_line(self.journal)
        return True

    def release(self) -> None:
        """Lets the next one write."""
        self.lock.release()


def drop_torn_line(path: Path) -> None:
    """Shortens a file to the end of its last whole line."""
    with path.open("rb+") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage at ``url``, or the journal in ``folder``.

    Raises:
        InputError: it cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is None:
        path = folder / JOURNAL
        path.touch()
        try:
            return JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(path)))
        except (OSError, MemoryError):
            raise
        except Exception as error:  # of whole lines that Optuna did not write, anything: it asserts and indexes
            raise InputError(
                f"{path}: is damaged ({type(error).__name__}); stop the other processes of this search and start it "
                "again: its run directories are enough to go on."
            ) from None
    scheme, colon, rest = url.partition("://")
    if scheme not in ("postgresql", "postgresql+psycopg") or not colon:
        raise InputError(
            f"--storage: {scheme!r} is not a kind of storage that several machines can use; give a "
            "postgresql://user@host/database, or leave it out for a file in --out."
        )
    try:
        # A connection may have been closed by the server while a run was trained.
        return RDBStorage(f"postgresql+psycopg://{rest}", engine_kwargs={"pool_pre_ping": True})
    except ImportError:
        raise InputError(
            "--storage: PostgreSQL needs the package psycopg; pip install 'convmixer-lab[cluster]'."
        ) from None
    except Exception as error:  # whatever the database or its driver has to say
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise InputError(
            f"--storage: the database cannot be used ({reason}); is it running, and is the URL right?"
        ) from None


def close_storage(storage: BaseStorage) -> None:
    """Closes the connections to a database."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def start_anew(url: str | None, folder: Path, name: str) -> BaseStorage:
    """The storage without the study called ``name``, whatever state it was in. Only for a process that is alone."""
    if url is None:
        (folder / JOURNAL).unlink(missing_ok=True)
    storage = open_storage(url, folder)
    with contextlib.suppress(KeyError):
        optuna.delete_study(study_name=name, storage=storage)
    return storage
