"""The journal of a search outlives writers that are killed while they write; who is at a search is known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages.journal import JournalFileBackend

from convmixer.errors import InputError
from convmixer.runtime.environment import without_passwords
from convmixer.search.processes import ActiveProcesses
from convmixer.search.storage import JOURNAL, drop_torn_line, open_storage, start_anew


def trials(folder: Path) -> list[int]:
    study = optuna.load_study(study_name="search", storage=open_storage(None, folder))
    return [trial.user_attrs["number"] for trial in study.get_trials()]


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    study = optuna.create_study(study_name="search", storage=start_anew(None, tmp_path, "search"))
    for number in range(3):
        study.enqueue_trial({}, user_attrs={"number": number})
    return study


def test_a_torn_line_is_lost_and_nothing_else(tmp_path: Path, study: optuna.Study) -> None:
    """Wherever the writer of the last line was killed, others read on and write on."""
    whole = (tmp_path / JOURNAL).read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole) + 1, 7):
        (tmp_path / JOURNAL).write_bytes(whole[:cut])
        assert trials(tmp_path) == [0, 1]
        again = optuna.load_study(study_name="search", storage=open_storage(None, tmp_path))
        again.enqueue_trial({}, user_attrs={"number": 7})
        assert trials(tmp_path) == [0, 1, 7]
        assert all(json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines())


def test_a_process_that_was_there_all_the_time_reads_on(tmp_path: Path, study: optuna.Study) -> None:
    other = optuna.load_study(study_name="search", storage=open_storage(None, tmp_path))
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":4,"worker_id":"')
    assert len(other.get_trials()) == 3
    study.enqueue_trial({}, user_attrs={"number": 3})
    other.enqueue_trial({}, user_attrs={"number": 4})
    assert [trial.user_attrs["number"] for trial in study.get_trials()] == [0, 1, 2, 3, 4]
    assert [trial.user_attrs["number"] for trial in other.get_trials()] == [0, 1, 2, 3, 4]


def test_without_the_repair_the_journal_would_be_lost(tmp_path: Path, study: optuna.Study) -> None:
    """The control: this is what Optuna's own file does, up to the version that the repair can be left out with."""
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":4,"worker_id":"')
    plain = JournalFileBackend(str(tmp_path / JOURNAL))
    plain.append_logs([{"op_code": 0}])
    plain.append_logs([{"op_code": 0}])
    with pytest.raises(json.JSONDecodeError):
        list(plain.read_logs(0))


@given(content=st.binary(max_size=40))
def test_what_is_dropped(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "torn"
    path.write_bytes(content)
    drop_torn_line(path)
    assert path.read_bytes() == content[: content.rfind(b"\n") + 1]


@pytest.mark.slow
def test_members(tmp_path: Path) -> None:
    """Seen from a process that is killed: it is there until then."""
    code = (
        "import sys, pathlib; from convmixer.search.processes import ActiveProcesses\n"
        "members = ActiveProcesses(pathlib.Path(sys.argv[1])); print(members.join(), members.name, flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "members")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    alone, name = process.stdout.readline().split()
    assert alone == "True"
    members = ActiveProcesses(tmp_path / "members")
    assert not members.join()
    assert members.is_alive(name)
    process.kill()
    process.communicate()
    assert not members.is_alive(name)
    assert not members.is_alive("nobody")
    assert not members.is_alive("")
    third = ActiveProcesses(tmp_path / "members")
    assert not third.join()
    members.leave()
    third.leave()
    assert ActiveProcesses(tmp_path / "members").join()


def test_passwords_stay_out_of_records() -> None:
    arguments = ["--storage", "postgresql://me:secret@host:5432/db", "--storage=postgresql://me:secret@/db", "a:b@c"]
    assert without_passwords(arguments) == [
        "--storage",
        "postgresql://me:***@host:5432/db",
        "--storage=postgresql://me:***@/db",
        "a:b@c",
    ]


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    for line in (b"\xff\xfe", b"{}", b'{"op_code": 0}', b'{"op_code": 99, "worker_id": "x"}', b"[1"):
        (tmp_path / JOURNAL).write_bytes((line + b"\n") * 2)  # a torn last line is no damage
        with pytest.raises(InputError, match=r"optuna\.journal: is damaged"):
            open_storage(None, tmp_path)
