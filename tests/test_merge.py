"""Records of other machines: one result is one record, another is shown and changes nothing."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fake_records import record

from nin_repro.config.recipe import digest
from nin_repro.files import UsageError, read_json, write_json
from nin_repro.records import check, merge
from nin_repro.results import records


def true(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A record whose key and family are those of its recipe."""
    recipe = {"lr": 0.1, "seed": seed}
    return record(seed=seed, recipe=recipe, key=digest(recipe), family=digest({"lr": 0.1}), **changes)


def place(folder: Path, *values: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for value in values:
        (folder / f"{value['key']}.json").write_text(json.dumps(value))
    return folder


def packed(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return path


def test_one_result_is_one_record(tmp_path: Path) -> None:
    store, there = tmp_path / "store", tmp_path / "there"
    records.write(store, true(0))
    place(there / "a", true(0, device="another GPU", command="elsewhere"), true(1))
    place(there / "b", true(1, seconds=1.0), true(2, train_loss=0.5))
    merged = merge(there, store)
    assert (len(merged.new), merged.already, merged.conflicts, merged.unsound) == (2, 1, [], [])
    read, problems = records.read_all(store)
    assert ([one.seed for one in read], problems) == ([0, 1, 2], [])
    assert read[0].device == "a GPU"
    assert json.loads(read[2].path.read_text())["train_loss"] == 0.5, "fields that tables do not read come along"
    assert merge(there, store).already == 3


def test_another_result_is_shown_and_changes_nothing(tmp_path: Path, command: Any) -> None:
    store = tmp_path / "results" / "records"
    path = records.write(store, true(0, device="2 x CPU"))
    before = path.read_bytes()
    other = true(0, error=10.5, weights_sha256="f" * 64, device="H\x1b[2J200", commit="fedcba9876543210", dirty=True)
    there = place(tmp_path / "there", other, true(1))
    done = command("records", "import", "there")
    assert done.returncode == 1 and done.stderr == ""
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("conflict: ")]
    for words in ("error 10.50 %", "ffffffff", "fedcba9876 (modified)", "0123456789,", "2 x CPU", "H\ufffd[2J200"):
        assert words in line
    assert "devices round differently" in line
    assert done.stdout.endswith("1 new, 0 already here, 1 in conflict, 0 unsound; next: python -m nin_repro.tables\n")
    done = command("records", "import", "there", "--records", "theirs")
    assert done.returncode == 0
    assert done.stdout.endswith("0 unsound; next: python -m nin_repro.tables --records theirs --out pages\n")
    assert path.read_bytes() == before and len(records.read_all(store)[0]) == 2
    place(there / "again", true(1, error=9.0), true(3))  # seed 1 twice, differing, within what is imported
    merged = merge(there, store)
    assert len(merged.conflicts) == 2 and [one.stem for one in merged.new] == [true(3)["key"]]


def test_one_seed_under_two_keys_is_a_conflict(tmp_path: Path) -> None:
    recipe = {"lr": 0.1, "seed": 0, "parent": {"key": "a"}}
    one = record(recipe=recipe, key=digest(recipe))
    recipe = recipe | {"parent": {"key": "b"}}
    other = record(recipe=recipe, key=digest(recipe))
    records.write(tmp_path / "store", one)
    merged = merge(place(tmp_path / "there", other), tmp_path / "store")
    assert merged.new == [] and "two keys for seed 0" in merged.conflicts[0]


UNSOUND = {
    "edited recipe": true() | {"recipe": {"lr": 0.2, "seed": 0}},
    "edited seed": true() | {"seed": 4},
    "edited family": true() | {"family": "0" * 12},
    "error above 100": true(error=101.0),
    "newer": true() | {"format": 2},
    "older": true() | {"format": 0},
    "a name that leaves": true(experiment="../../etc/x"),
    "a long name": true(experiment="x" * 300),
}


@pytest.mark.parametrize("value", UNSOUND.values(), ids=UNSOUND.keys())
def test_unsound_records_are_named_and_the_others_come(tmp_path: Path, value: dict[str, Any]) -> None:
    there = place(tmp_path / "there", value, true(1))
    merged = merge(there, tmp_path / "store")
    assert len(merged.new) == 1 and len(merged.unsound) == 1 and value["key"] in merged.unsound[0]
    assert [path.name for path in tmp_path.rglob("*.json") if "there" not in path.parts] == [merged.new[0].name]


def test_a_single_record_is_imported_too(tmp_path: Path) -> None:
    place(tmp_path / "there", true(0), true(1))
    merged = merge(tmp_path / "there" / f"{true(1)['key']}.json", tmp_path / "store")
    assert merged.unsound == [] and [one.stem for one in merged.new] == [true(1)["key"]]


def test_an_archive_is_read_without_being_extracted(tmp_path: Path) -> None:
    name = f"records/x/{true(1)['key']}.json"
    members = {name: json.dumps(true(1)).encode(), "../../evil.json": b"{}", "runs/a/result.json": b"{}"}
    merged = merge(packed(tmp_path / "a.tar.gz", members, link="records/passwd.json"), tmp_path / "store")
    assert len(merged.new) == 1
    assert merged.unsound == ["records/passwd.json: it is a link, too large, or no file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "store"]


def test_a_damaged_archive_changes_nothing(tmp_path: Path) -> None:
    members = {f"records/{true(seed)['key']}.json": json.dumps(true(seed)).encode() for seed in range(20)}
    path = packed(tmp_path / "a.tar.gz", members)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:700] + bytes([whole[700] ^ 1]) + whole[701:], b"", b"{}"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"a.tar.gz cannot be read"):
            merge(path, tmp_path / "store")
    with pytest.raises(UsageError, match="no such file"):
        merge(tmp_path / "absent", tmp_path / "store")
    write_json(tmp_path / "runs" / "digits-nin-seed0" / "result.json", true(0))
    with pytest.raises(UsageError, match=r"runs has runs, not records: .* record=always"):
        merge(tmp_path / "runs", tmp_path / "store")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty has no record in it"):
        merge(tmp_path / "empty", tmp_path / "store")
    assert not (tmp_path / "store").exists()
    write_json(tmp_path / "records" / f"{true(0)['key']}.json", true(0))  # as unbundle packs it
    assert len(merge(tmp_path, tmp_path / "store").new) == 1


def test_check_finds_what_was_edited(tmp_path: Path, trained: Path) -> None:
    store = trained.parents[1] / "results" / "records"
    assert check(store) == (1, [])
    (path,) = store.rglob("*.json")
    value = read_json(path)
    place(tmp_path, value | {"recipe": value["recipe"] | {"restarts": 3}})
    count, (line,) = check(tmp_path)
    assert count == 1 and "was edited" in line and path.name in line


def test_a_store_that_is_not_there_is_not_sound(tmp_path: Path, command: Any) -> None:
    done = command("records", "check", "--records", "nowhere")
    assert done.returncode == 2 and done.stdout == "" and "--records nowhere is no directory" in done.stderr


def test_a_record_of_a_run_with_a_parent_has_the_key_of_its_recipe(tmp_path: Path) -> None:
    recipe = {"lr": 0.1, "seed": 0, "parent": {"key": "0123456789ab"}}
    whole = record(recipe=recipe, key=digest(recipe), family="ba9876543210")
    assert len(merge(place(tmp_path / "whole", whole), tmp_path / "store").new) == 1
    edited = place(tmp_path / "edited", whole | {"recipe": recipe | {"lr": 0.2}})
    (line,) = merge(edited, tmp_path / "other").unsound
    assert "its key" in line and "it was edited" in line
