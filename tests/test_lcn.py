"""Local contrast normalisation against its formula in float64, written out over the window; SVHN from file to input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_files import svhn
from test_sources import small

from nin_repro.config import compose
from nin_repro.data.archive import load
from nin_repro.data.lcn import local_contrast_normalised
from nin_repro.data.preprocess import preprocess
from nin_repro.data.splits import Rows, open_split

DATA = Path(__file__).parents[1] / "data"


def reference(images: np.ndarray) -> np.ndarray:
    """float64 [N, H, W, C], every channel of every image by itself, from the formula in pylearn2's order."""
    window = [[np.exp(-((i - 3) ** 2 + (j - 3) ** 2) / (2 * 2.0**2)) for j in range(7)] for i in range(7)]
    total = sum(map(sum, window))

    def smoothed(plane: np.ndarray) -> np.ndarray:
        height, width = plane.shape
        padded, result = np.pad(plane, 3), np.zeros((height, width))
        for i in range(7):
            for j in range(7):
                result += window[i][j] / total * padded[i : i + height, j : j + width]
        return result

    result = np.empty(images.shape)
    for n in range(images.shape[0]):
        for c in range(images.shape[3]):
            x = images[n, :, :, c].astype(np.float64)
            strength = np.sqrt(smoothed(x**2))
            result[n, :, :, c] = (x - smoothed(x)) / np.maximum(strength, max(strength.mean(), 1e-4))
    return result


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 1, size=shape).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 60),  # more than a block
    height=st.integers(1, 12),  # less than the window
    width=st.integers(1, 12),
    channels=st.sampled_from([1, 3]),
)
def test_formula(seed: int, count: int, height: int, width: int, channels: int) -> None:
    x = normal(count, height, width, channels, seed=seed)
    found = local_contrast_normalised(x)
    assert found.dtype == np.float32 and found.shape == x.shape
    np.testing.assert_allclose(found, reference(x), rtol=1e-5, atol=1e-5)


def test_every_channel_is_normalised_by_itself() -> None:
    """And not the first alone, as in pylearn2 since 2014."""
    x = normal(5, 32, 32, 3)
    found = local_contrast_normalised(x)
    for c in range(3):
        alone = local_contrast_normalised(x[..., c : c + 1].copy())
        np.testing.assert_allclose(found[..., c : c + 1], alone, atol=1e-5)
    louder = local_contrast_normalised(x * np.array([1, 10, 100], np.float32))  # a channel's strength is divided out
    np.testing.assert_allclose(louder, found, atol=1e-5)
    assert not np.allclose(found, x, atol=0.1) and 0.5 < found[..., 1].std() < 1.5


def test_the_edges_are_next_to_zeros() -> None:
    found = local_contrast_normalised(np.ones((1, 32, 32, 1), dtype=np.float32))[0, :, :, 0]
    np.testing.assert_allclose(found[3:-3, 3:-3], 0, atol=1e-6)  # the window sees nothing but ones
    assert found[0, 0] > found[0, 16] > 0.1


def test_what_has_no_contrast_is_not_blown_up() -> None:
    faint = normal(1, 8, 8, 3) * np.float32(1e-9)
    np.testing.assert_allclose(local_contrast_normalised(faint), reference(faint), rtol=1e-4, atol=1e-9)
    assert np.abs(local_contrast_normalised(faint)).max() < 1e-4
    assert not local_contrast_normalised(np.zeros((2, 8, 8, 3), dtype=np.float32)).any()


def test_what_is_given_stays_as_it_is() -> None:
    x = normal(3, 8, 8, 3)
    before = x.copy()
    local_contrast_normalised(x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.skipif(not (DATA / "cifar10.npz").exists(), reason="data/cifar10.npz is not here")
def test_real_images() -> None:
    raw = load("cifar10", DATA, ["test"]).images["test"][:20]
    np.testing.assert_allclose(local_contrast_normalised(raw.astype(np.float32)), reference(raw), atol=2e-5)


# --- SVHN -----------------------------------------------------------------------------------------------------------


def test_svhn_from_the_official_files_to_what_the_network_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = small("svhn", monkeypatch, sizes={"train": 4_100, "test": 30, "extra": 2_100})
    files, attributes = svhn("svhn", arrays)
    (folder := tmp_path / "downloads" / "svhn").mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    monkeypatch.setattr("torchvision.datasets.SVHN.split_list", attributes("")["split_list"])
    split = open_split("svhn", tmp_path, "final")
    assert np.bincount(split.train_labels).tolist() == [10 + 10] * 10
    params = compose.load(["dataset=svhn"]).dataset.preprocessing
    wanted = [split.train_images, split.eval_images]
    found: Any = preprocess(split.fit_images, wanted, params, tmp_path / "cache", split.digest)
    train, test = found

    def expected(raw: np.ndarray) -> np.ndarray:
        x = raw - raw.mean(axis=(1, 2, 3), keepdims=True)
        return reference(x / np.sqrt((x**2).mean(axis=(1, 2, 3), keepdims=True) + 10))

    np.testing.assert_allclose(test, expected(arrays["test_images"]), atol=1e-5)
    np.testing.assert_allclose(train, expected(np.asarray(split.train_images)), atol=1e-5)


def test_chosen_rows_of_several_arrays() -> None:
    parts = [np.arange(10, dtype=np.uint8).reshape(5, 2), 100 + np.arange(6, dtype=np.uint8).reshape(3, 2)]
    rows = Rows(parts, np.array([1, 7, 5, 4, 4]))
    expected = np.concatenate(parts)[[1, 7, 5, 4, 4]]
    assert (len(rows), rows.shape, np.asarray(rows).dtype) == (5, (5, 2), np.uint8)
    assert np.array_equal(rows, expected) and np.array_equal(rows[1:4], expected[1:4])
    assert rows[:2].shape == (2, 2) and np.asarray(rows[5:]).shape == (0, 2)
    assert np.asarray(rows, dtype=np.float32).dtype == np.float32
