"""Faults of files and of the machine, each caused for real. tests/FAULTS.md lists them all."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_records import record

from nin_repro.data.preprocess import preprocess
from nin_repro.results import records
from nin_repro.schema import Preprocessing

ROOT = Path(__file__).parents[1]


# --- bits ------------------------------------------------------------------------------------------------------------


def damages(raw: bytes, seed: int, flips: int) -> Iterator[bytes]:
    """What a bad disk makes of a file: cut, zeroed, and single bits flipped all over it."""
    draw = random.Random(seed)
    yield b""
    yield raw[: draw.randrange(1, len(raw) - 2)]
    yield bytes(len(raw))
    start = draw.randrange(len(raw) - 16)
    yield raw[:start] + bytes(16) + raw[start + 16 :]
    for _ in range(flips):
        place = draw.randrange(len(raw))
        yield raw[:place] + bytes([raw[place] ^ 1 << draw.randrange(8)]) + raw[place + 1 :]


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_record_is_refused_or_tells_the_right_numbers(seed: int, tmp_path: Path) -> None:
    paths = sorted(ROOT.glob("results/records/*/*/*.json"))
    paths = [records.write(tmp_path / "made", record()), random.Random(seed).choice(paths)]
    for raw in (path.read_bytes() for path in paths):
        path = tmp_path / "read" / f"{json_key(raw)}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)
        ((sound,), _), refused, flips = records.read_all(path.parent), 0, 150
        for damaged in damages(raw, seed, flips):
            path.write_bytes(damaged)
            found, problems = records.read_all(path.parent)
            assert (found == [sound] and not problems) or (not found and "not used" in problems[0]), damaged
            refused += not found
        assert refused > 0.9 * flips  # the others met the name of the seal, or an E for an e
        path.unlink()


def json_key(raw: bytes) -> str:
    found = re.search(rb'"key": "(\w+)"', raw)
    assert found
    return found[1].decode()


def test_the_number_in_a_record_has_no_other_that_passes_for_it(tmp_path: Path) -> None:
    path = records.write(tmp_path, record(error=10.5))
    text = path.read_text()
    for digit in "1234567":
        path.write_text(text.replace('"test_error": 10.5', f'"test_error": 1{digit}.5'))
        found, (problem,) = records.read_all(tmp_path)
        assert not found and "it was altered" in problem


def test_what_was_written_before_there_were_seals_is_read(tmp_path: Path) -> None:
    path = records.write(tmp_path, record())
    path.write_text(re.sub(r',\n "sha256": ".*"', "", path.read_text()))
    assert "sha256" not in path.read_text().replace("weights_sha256", "")
    assert len(records.read_all(tmp_path)[0]) == 1


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_cache_is_made_again_and_gives_the_same_images(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 1), dtype=np.uint8)
    params = Preprocessing(divide=255, gcn=None, zca=0.1, mean="none")

    def made() -> list[np.ndarray]:
        return [np.array(array) for array in preprocess(images, [images[:5], images[5:]], params, tmp_path, "digest")]

    expected = made()
    for path in sorted(tmp_path.rglob("*.*")):
        raw = path.read_bytes()
        for damaged in damages(raw, seed, 12) if raw else ():
            path.write_bytes(damaged)
            for found, right in zip(made(), expected, strict=True):
                np.testing.assert_array_equal(found, right)
        path.write_bytes(raw)
    assert "damaged or incomplete: making it again" in capsys.readouterr().err
