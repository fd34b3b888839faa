"""The record store: what is written comes back, and nothing unsound is used or overwritten."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_records import digest, record, stored

from nin_repro.files import UsageError, write_json
from nin_repro.results import records


def place(folder: Path, value: dict[str, Any], name: str | None = None) -> Path:
    """Put `value` into the store without asking the store."""
    path = folder / (name or f"{value['key']}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    value = record(
        dead_classes=[3], deviations=["clipped"], attempts=[{"attempt": 0, "died": None, "epoch": 1, "step": 2}]
    )
    path = records.write(tmp_path, value)
    assert path == tmp_path / "table1" / "nin" / f"{value['key']}.json"
    (read,), problems = records.read_all(tmp_path)
    assert problems == []
    assert read.path == path
    assert read.attempts == (records.Attempt(0, None, 1, 2),)
    assert (read.dead_classes, read.deviations) == ((3,), ("clipped",))
    for name in set(value) - {"format", "attempts", "dead_classes", "deviations"}:
        assert getattr(read, name) == value[name], name


def test_what_computed_the_parts_of_a_run_is_told(tmp_path: Path) -> None:
    second = PART | {"device": "a GPU", "dirty": False, "since": [0, 1500]}
    (read,) = stored(tmp_path, record(environment=PART | {"since": [2, 90], "before": [PART, second]}))
    assert read.earlier == [
        "up to update 1,500 by commit ababababab (modified) on 2 x a CPU, torch 3.0",
        "up to update 90 of start 3 by commit ababababab on a GPU, torch 3.0",
    ]
    (alone,) = stored(tmp_path / "alone", record(environment=PART))
    assert alone.earlier == []


def test_a_run_without_an_experiment_has_a_place(tmp_path: Path) -> None:
    value = record(None)
    assert records.write(tmp_path, value) == tmp_path / "other" / f"{value['key']}.json"


def test_no_folder_is_no_records(tmp_path: Path) -> None:
    assert records.read_all(tmp_path / "absent") == ([], [])


PART = {"commit": "ab" * 20, "dirty": True, "device": "cpu", "threads": 2, "processor": "a CPU"}
PART |= {"versions": {"torch": "3.0"}}
BAD = {
    "error above 100": {"test_error": 100.1},
    "negative error": {"test_error": -0.1},
    "error as text": {"test_error": "10.5"},
    "error as truth": {"test_error": True},
    "enormous error": {"test_error": 10**400},
    "no error although done": {"test_error": None},
    "test error under validate": {"protocol": "validate", "validation_error": 11.0},
    "no validation error": {"protocol": "validate", "test_error": None},
    "key not hexadecimal": {"key": "xyz"},
    "key in capitals": {"key": "ABCDEF012345"},
    "family too long": {"family": "0" * 13},
    "status unknown": {"status": "running"},
    "protocol unknown": {"protocol": ["final"]},
    "seed negative": {"seed": -1},
    "seed a fraction": {"seed": 0.5},
    "seconds negative": {"seconds": -1.0},
    "seconds infinite": {"seconds": float("inf")},
    "recipe with NaN": {"recipe": {"lr": float("nan")}},
    "curve with NaN": {"curve": {"train_loss": [float("nan")]}},
    "budget empty": {"budget": ""},
    "parts that are none": {"environment": {"before": [{"commit": "a"}], "since": [0, 1]}},
    "parts without an end": {"environment": {"before": [PART]}},
    "parts in no list": {"environment": {"before": PART, "since": [0, 1]}},
    "experiment a number": {"experiment": 3},
    "dead class twice": {"dead_classes": [3, 3]},
    "dead classes a count": {"dead_classes": 2},
    "attempt died of something else": {"attempts": [{"attempt": 0, "died": "heat", "epoch": 1, "step": 1}]},
    "no attempt": {"attempts": []},
    "attempt without its end": {"attempts": [{"attempt": 0, "epoch": 1, "step": 1}]},
    "deviations a text": {"deviations": "clipped"},
    "dirty a word": {"dirty": "no"},
    "recipe a list": {"recipe": []},
    "curve of texts": {"curve": {"epoch": ["1"]}},
    "older format": {"format": 0},
    "newer format": {"format": 2},
    "format true": {"format": True},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD.keys())
def test_unsound_values_are_neither_read_nor_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = place(tmp_path, record(**changes), "0123456789ab.json")
    read, problems = records.read_all(tmp_path)
    assert read == []
    assert len(problems) == 1 and problems[0].startswith("0123456789ab.json: not used: ")
    path.unlink()
    with pytest.raises(UsageError) as caught:
        records.write(tmp_path, record(**changes))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.rglob("*.json")) == []


@pytest.mark.parametrize("name", sorted(set(record())))
def test_no_field_may_be_missing(tmp_path: Path, name: str) -> None:
    value = record()
    del value[name]
    place(tmp_path, value, f"{record()['key']}.json")
    read, problems = records.read_all(tmp_path)
    assert read == [] and name in problems[0]


def test_the_newer_format_is_named(tmp_path: Path) -> None:
    place(tmp_path, {"format": 2, "key": "0123456789ab"})
    assert "newer" in records.read_all(tmp_path)[1][0]


TEXTS = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: f"[{text}]",
    "a name twice": lambda text: text.replace('"seed": 0', '"seed": 0, "test_error": 1.0'),
    "NaN": lambda text: text.replace("10.5", "NaN"),
    "infinite": lambda text: text.replace("7200.0", "1e999"),
    "NaN in the recipe": lambda text: text.replace("0.1", "NaN"),
    "deep": lambda text: "[" * 100_000,
    "not UTF-8": lambda text: b"\xff" + text.encode(),
}


@pytest.mark.parametrize("change", TEXTS.values(), ids=TEXTS.keys())
def test_broken_files_are_told_and_the_others_used(tmp_path: Path, change: Any) -> None:
    good = place(tmp_path, record(seed=1))
    broken = place(tmp_path, record(seed=0))
    content = change(broken.read_text())
    broken.write_bytes(content if isinstance(content, bytes) else content.encode())
    read, problems = records.read_all(tmp_path)
    assert [one.path for one in read] == [good]
    assert len(problems) == 1 and broken.name in problems[0] and "\n" not in problems[0]


def test_a_file_must_be_named_by_its_key(tmp_path: Path) -> None:
    place(tmp_path, record(), "0123456789ab.json")
    read, problems = records.read_all(tmp_path)
    assert read == [] and record()["key"] in problems[0]


def test_a_folder_with_the_name_of_a_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "0123456789ab.json").mkdir()
    read, problems = records.read_all(tmp_path)
    assert read == [] and len(problems) == 1


def test_the_same_result_twice_is_one_record(tmp_path: Path) -> None:
    place(tmp_path / "a", record())
    place(tmp_path / "b", record("table5/gap", family=record()["family"], device="another GPU", seconds=1.0))
    read, problems = records.read_all(tmp_path)
    assert len(read) == 1 and problems == []


@pytest.mark.parametrize(
    "changes", [{"test_error": 9.9}, {"weights_sha256": "1" * 64}, {"dead_classes": [1]}, {"recipe": {"lr": 0.2}}]
)
def test_different_results_of_one_key_are_both_left_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    place(tmp_path / "a", record())
    place(tmp_path / "b", record(**changes))
    place(tmp_path / "c", record(seed=1))
    read, problems = records.read_all(tmp_path)
    assert [one.seed for one in read] == [1]
    assert len(problems) == 1
    name = f"{record()['key']}.json"
    assert f"a/{name}" in problems[0] and f"b/{name}" in problems[0]


def test_one_seed_under_two_keys_is_not_two_samples(tmp_path: Path) -> None:
    place(tmp_path, record())
    place(tmp_path, record(key=digest("copied")))
    read, problems = records.read_all(tmp_path)
    assert read == [] and "two keys for seed 0" in problems[0]


def test_writing_the_same_result_again_changes_nothing(tmp_path: Path) -> None:
    path = records.write(tmp_path, record())
    before = path.read_bytes()
    assert records.write(tmp_path, record(device="another", started="later")) == path
    assert path.read_bytes() == before


def test_writing_never_replaces_another_result(tmp_path: Path) -> None:
    path = records.write(tmp_path, record("table5/gap", family=record()["family"]))
    with pytest.raises(UsageError) as caught:
        records.write(tmp_path, record(test_error=9.0))
    assert str(path) in str(caught.value) and "10.5" in str(caught.value) and "9.0" in str(caught.value)
    assert str(tmp_path / "table1" / "nin") in str(caught.value)
    assert [one.test_error for one in records.read_all(tmp_path)[0]] == [10.5]


def test_writing_never_replaces_a_broken_file(tmp_path: Path) -> None:
    path = records.write(tmp_path, record())
    path.write_text("{")
    with pytest.raises(UsageError, match=path.name):
        records.write(tmp_path, record())
    assert path.read_text() == "{"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ".hidden", "a b", "a\nb", "a/"])
def test_an_experiment_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        records.write(tmp_path / "records", record(name))
    assert list(tmp_path.rglob("*.json")) == []


def test_what_counts_as_a_sample(tmp_path: Path) -> None:
    values = [
        record(seed=0),
        record(seed=1, status="dead", error=90.0),
        record(seed=2, dead_classes=[4]),
        record(seed=3, protocol="validate", error=None, validation_error=12.0),
    ]
    assert {one.seed: one.sample for one in stored(tmp_path, *values)} == {0: True, 1: False, 2: False, 3: False}


def test_the_same_end_by_other_starts_is_another_result(tmp_path: Path) -> None:
    died = [{"attempt": 0, "died": "network", "epoch": 1, "step": 100}, {**record()["attempts"][0], "attempt": 1}]
    one, other = (stored(tmp_path / name, value)[0] for name, value in (("a", record()), ("b", record(attempts=died))))
    assert records.same(one, one) and not records.same(one, other)


def test_of_three_files_of_one_key_all_must_agree(tmp_path: Path) -> None:
    for name, error in (("a", 9.0), ("b", 9.0), ("c", 9.5)):
        stored(tmp_path / name, record(error=error))
    found, problems = records.read_all(tmp_path)
    assert found == [] and len(problems) == 1


def test_files_are_as_open_to_others_as_the_system_has_it(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {})
    (tmp_path / "other").touch()
    assert (tmp_path / "file.json").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_run_is_on_record_whichever_experiment_asked_for_it(tmp_path: Path) -> None:
    (kept,) = stored(tmp_path, record("table1/nin"))
    assert records.stored(tmp_path, kept.key) == kept and records.stored(tmp_path, "0" * 12) is None
    kept.path.write_text("{")
    assert records.stored(tmp_path, kept.key) is None
