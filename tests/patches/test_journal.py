from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from alphaedit_plugin.common.errors import ConfigError, PatchError
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.undo import plan
from alphaedit_plugin.patches.journal import Journal
from alphaedit_plugin.patches.sessions import open_session
from tests.patches import killed
from tests.patches.edits import LAYERS, edit, forge, fresh, parts_of
from tests.tiny import FAMILIES, assert_same_weights, weights_of

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def begun(folder: Path, *seeds: int, **model: Any) -> EditSession:
    session = open_session(fresh(**model), LAYERS, folder)
    edit(session, *seeds)
    return session


def opened(folder: Path, **model: Any) -> EditSession:
    return open_session(fresh(**model), LAYERS, folder)


def names(session: EditSession) -> list[tuple[str, tuple[str, ...]]]:
    return [(entry.name, entry.ids) for entry in session.journal]


# ---------------------------------------------------------------------------------------------
# Going on


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_journal_is_opened_again_where_it_was(
    folder: Path, dtype: torch.dtype, family: str
) -> None:
    session = begun(folder, 0, 1, dtype=dtype, family=family)
    session.note({session.ids[2]: {"rewrite": [0.5]}})
    again = opened(folder, dtype=dtype, family=family)
    assert_same_weights(again.lm, weights_of(session.lm))
    assert names(again) == names(session)
    assert again.requests == session.requests
    assert again.metrics == session.metrics
    once = again.journal[1]
    assert once.time == session.journal[1].time
    assert once.before == session.journal[0].after != once.after == again.checksums()
    assert once.method == session.journal[1].method
    edit(again, 2)
    edit(session_without_disk := EditSession(fresh(dtype, family), LAYERS), 0, 1, 2)
    assert_same_weights(again.lm, weights_of(session_without_disk.lm))
    assert names(opened(folder, dtype=dtype, family=family)) == names(again)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("what", [0, 1, 2, "first", "edit"])
def test_what_was_taken_back_stays_away(folder: Path, dtype: torch.dtype, what: int | str) -> None:
    session = begun(folder, 0, 1, 2, dtype=dtype)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    wanted = {"first": session.journal[0].name, "edit": session.ids[3]}.get(str(what), what)
    session.undo(wanted)
    again = opened(folder, dtype=dtype)
    assert_same_weights(again.lm, weights_of(session.lm))
    assert names(again) == names(session)
    now = sorted(path.name for path in folder.glob("*.safetensors"))
    assert now[: len(files)] == files
    assert len(now) == len(files) + (what != 0)  # nothing is ever removed
    edit(again, 5)
    again.reset()
    assert_same_weights(again.lm, weights_of(fresh(dtype)))
    assert opened(folder, dtype=dtype).journal == []


MAPS = Path("/proc/self/maps")


def in_files(tensors: Iterable[torch.Tensor]) -> list[bool]:
    """Whether each lies in memory that the system has mapped from a journal's file."""
    lines = [line.split() for line in MAPS.read_text().splitlines() if ".safetensors" in line]
    spans = [[int(end, 16) for end in line[0].split("-")] for line in lines]
    return [any(start <= t.data_ptr() < end for start, end in spans) for t in tensors]


def tensors_of(session: EditSession) -> list[torch.Tensor]:
    keys = [keys for entry in session.journal for keys in entry.past_keys.values()]
    deltas = [write.delta for entry in session.journal for write in entry.writes]
    return keys + [part for d in deltas for part in (d.left, d.right) if part is not None]


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not tell")
def test_what_is_on_disk_takes_no_memory(folder: Path) -> None:
    session = begun(folder, 0, 1)
    again = opened(folder)
    for one in (session, again):
        assert isinstance(one.store, Journal)
        assert all(
            mine is theirs for mine, theirs in zip(one.journal, one.store.entries, strict=True)
        )
        tensors = tensors_of(one)
        assert tensors
        assert all(in_files(tensors))
    assert not any(in_files(t.clone() for t in tensors_of(session)))


def test_entries_that_cannot_be_read_back_stay_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = begun(folder.parent / "other", 0, 1).checksums()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("Cannot allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr("alphaedit_plugin.patches.journal.Document.read", refuse)
        session = begun(folder, 0, 1)
    assert session.checksums() == opened(folder).checksums() == expected
    session.undo(2)
    assert opened(folder).checksums() == session.checksums()


def test_a_journal_is_read_and_shortened_without_a_model(folder: Path) -> None:
    session = begun(folder, 0, 1)
    journal = Journal.read(folder)
    assert [entry.ids for entry in journal.entries] == [entry.ids for entry in session.journal]
    journal.take_back(plan(journal.entries, 1), {})
    with pytest.raises(PatchError, match="another process has written"):
        edit(session, 2)
    again = opened(folder)
    session = EditSession(fresh(), LAYERS)
    edit(session, 0)
    assert_same_weights(again.lm, weights_of(session.lm))
    edit(again, 4)
    assert again.journal[-1].before == session.checksums()


# ---------------------------------------------------------------------------------------------
# Killed


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    path = [os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-m", "tests.patches.killed", str(place)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def expected() -> list[tuple[dict[str, torch.Tensor], int]]:
    """Weights and number of edits after each operation of a run that nobody kills."""
    session = EditSession(fresh(), LAYERS)
    states = [(weights_of(session.lm), 0)]
    for number in range(killed.COUNT):
        killed.operate(session, number)
        states.append((weights_of(session.lm), len(session.ids)))
    return states


def test_who_is_killed_loses_at_most_the_operation_in_flight(
    runs: Path, expected: list[tuple[dict[str, torch.Tensor], int]]
) -> None:
    reached = set()
    for place in sorted(runs.iterdir()):
        progress = place / "progress"
        finished = len(progress.read_bytes()) if progress.exists() else 0
        session = opened(place / "journal")
        fitting = [
            count
            for count in (finished, min(finished + 1, killed.COUNT))
            if len(session.ids) == expected[count][1]
        ]
        assert fitting, f"{place.name}: {finished} finished, {len(session.ids)} edits found"
        assert_same_weights(session.lm, expected[fitting[0]][0])
        edit(session, 9)  # and it goes on, over whatever was left half done
        assert len(opened(place / "journal").ids) == len(session.ids)
        assert not list((place / "journal").glob("*.part"))
        reached.add(finished)
    assert reached >= set(range(killed.COUNT))  # kills in the midst of each


# ---------------------------------------------------------------------------------------------
# Refused


@pytest.mark.parametrize(
    ("model", "layers", "match"),
    [
        ({"seed": 1}, LAYERS, r"made for .* with fingerprint \w{16}, but this is .* with \w{16}"),
        (
            {"family": "llama"},
            LAYERS,
            r"is for .transformer\.h\.1.* this is .*model\.layers\.1",
        ),
        ({"dtype": torch.bfloat16}, LAYERS, "kept in .float32., but this model is in bfloat16"),
        ({}, [1], r"for layers \[1, 3\], but these are \[1\]"),
    ],
)
def test_another_model_is_refused(
    folder: Path, model: dict[str, Any], layers: list[int], match: str
) -> None:
    begun(folder, 0)
    lm = fresh(**model)
    before = weights_of(lm)
    with pytest.raises(PatchError, match=match):
        open_session(lm, layers, folder)
    assert_same_weights(lm, before)
    assert len(list(folder.glob("*.safetensors"))) == 2


def test_a_model_that_is_edited_already_is_refused(folder: Path) -> None:
    session = begun(folder, 0)
    with pytest.raises(PatchError, match="starts from other weights"):
        open_session(session.lm, LAYERS, folder)


def test_two_sessions_do_not_write_over_each_other(folder: Path) -> None:
    begun(folder, 0)
    first, second = opened(folder), opened(folder)
    edit(first, 1)
    before = weights_of(second.lm)
    for act in (lambda: edit(second, 2), lambda: second.undo(), lambda: second.note({"e": 1})):
        with pytest.raises(PatchError, match="another process has written"):
            act()
        assert_same_weights(second.lm, before)
    assert len(second.journal) == 1
    assert names(opened(folder)) == names(first)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 9)


def rename(path: Path) -> None:
    tensors, content = parts_of(path)
    forge(path, tensors, {**content, "kind": "later"})


def repeat(path: Path) -> None:
    tensors, content = parts_of(path)
    forge(path.with_name("00000003.safetensors"), tensors, content)


@pytest.mark.parametrize(
    ("number", "harm", "match"),
    [
        (0, cut_short, "00000000.safetensors is damaged"),
        (2, cut_short, "00000002.safetensors is damaged"),
        (0, Path.unlink, "lacks 00000000.safetensors"),
        (1, Path.unlink, "lacks 00000001.safetensors"),
        (0, rename, "of kind .later."),
        (1, rename, "kind is 'later'.*update"),
        (1, repeat, "one name"),
    ],
)
def test_a_damaged_journal_is_refused(
    folder: Path, number: int, harm: Callable[[Path], None], match: str
) -> None:
    begun(folder, 0, 1)
    harm(folder / f"{number:08d}.safetensors")
    lm = fresh()
    before = weights_of(lm)
    with pytest.raises(PatchError, match=match):
        open_session(lm, LAYERS, folder)
    assert_same_weights(lm, before)


@pytest.mark.parametrize("act", [lambda s: edit(s, 1), lambda s: s.undo()], ids=["edit", "undo"])
def test_a_full_disk_leaves_everything_as_it_was(
    folder: Path, act: Callable[[EditSession], None]
) -> None:
    session = begun(folder, 0)
    before, journal = weights_of(session.lm), list(session.journal)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(ConfigError, match=r"cannot be written: .*File too large"):
            act(session)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same_weights(session.lm, before)
    assert session.journal == journal
    assert_same_weights(opened(folder).lm, before)
    edit(session, 1)


def test_a_folder_of_something_else_is_refused(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"holds thesis\.tex: give an empty folder"):
        opened(folder)
    with pytest.raises(PatchError, match="cannot be read: Not a directory"):
        opened(folder / "thesis.tex")
    with pytest.raises(PatchError, match="no journal at"):
        Journal.read(folder / "nowhere")
