"""The training images on the device: order, bytes, crops and flips."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nin_repro import rng
from nin_repro.data.batches import Batches, crop_and_flip, on_device
from nin_repro.data.preprocess import preprocess
from nin_repro.schema import Augment, Preprocessing


def test_an_epoch_shows_every_image_once() -> None:
    data = Batches(torch.arange(70.0).view(70, 1, 1, 1).expand(70, 8, 8, 1), torch.arange(70), 16, Augment(0, False))
    data.begin((1, 2), 3)
    batches = [data.gather(torch.tensor([i]), data.size(i), rng.Clock()) for i in range(len(data))]
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 16, 6]
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(70))
    for pixels, labels in batches:
        assert pixels.shape[1:] == (1, 8, 8) and torch.equal(pixels[:, 0, 0, 0], labels.float())


def test_bytes_become_what_numpy_makes_of_them(tmp_path: Path) -> None:
    """To the last bit, whichever are asked for, and without a copy until then."""
    raw = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)
    chosen = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    for divide in (255, 7, 1):
        (prepared,) = preprocess(raw, [raw], Preprocessing(divide, None, None, "pixel"), tmp_path, "d")
        found = on_device(prepared, torch.device("cpu"))
        values = raw.reshape(50, -1).astype(np.float32) / np.float32(divide)
        values -= (raw / divide).reshape(50, -1).mean(0).astype(np.float32)
        expected = torch.from_numpy(values.reshape(raw.shape))
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=2e-7 * 255 / divide)
        exact = raw.astype(np.float32)
        exact /= divide
        exact -= prepared.mean  # type: ignore[arg-type]
        assert torch.equal(found.float(), torch.from_numpy(exact))
        assert torch.equal(found[chosen].float(), found.float()[chosen])
        assert torch.equal(found[10:20][3:].float(), found.float()[13:20]) and len(found[45:90]) == 5
        assert found.values.data_ptr() == raw.ctypes.data  # type: ignore[union-attr]


@pytest.mark.parametrize("flip", [True, False])
def test_crops_and_flips_are_windows_of_the_padded_image(flip: bool) -> None:
    draw = np.random.default_rng(0)
    batch = draw.normal(size=(200, 6, 5, 3)).astype(np.float32)
    found = crop_and_flip(torch.from_numpy(batch), Augment(2, flip), rng.Clock((3, 4), 5)).numpy()
    padded = np.pad(batch, ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = set()
    for image, whole in zip(found, padded, strict=True):
        places = [
            (down, right, mirrored)
            for down in range(5)
            for right in range(5)
            for mirrored in ((False, True) if flip else (False,))
            if np.array_equal(image, (whole[down : down + 6, right : right + 5])[:, :: -1 if mirrored else 1])
        ]
        assert len(places) == 1
        seen |= set(places)
    assert {place[:2] for place in seen} == {(down, right) for down in range(5) for right in range(5)}
    assert {place[2] for place in seen} == ({True, False} if flip else {False})
    again = crop_and_flip(torch.from_numpy(batch), Augment(2, flip), rng.Clock((3, 4), 5)).numpy()
    later = crop_and_flip(torch.from_numpy(batch), Augment(2, flip), rng.Clock((3, 4), 6)).numpy()
    assert np.array_equal(again, found) and not np.array_equal(later, found)


def test_the_order_of_the_files_ends_each_with_a_small_batch() -> None:
    images = torch.zeros(25_000, 1, 1, 1)
    images[:, 0, 0, 0] = torch.arange(25_000)
    batches = Batches(images, torch.arange(25_000), 128, Augment(0, False), shuffled=False)
    batches.begin((0, 0), 3)
    found = [batches.gather(torch.tensor([i]), batches.size(i), rng.Clock())[1] for i in range(len(batches))]
    assert [len(batch) for batch in found] == [*([128] * 78 + [16]) * 2, *[128] * 39, 8]
    assert torch.equal(torch.cat(found), torch.arange(25_000))


def test_flips_are_half_and_have_nothing_to_do_with_crops() -> None:
    batch = torch.zeros(8000, 24, 24, 1)
    batch[:, 10, 10], batch[:, 10, 14] = 1.0, 2.0
    found = crop_and_flip(batch, Augment(4, True), rng.Clock((3, 4), 5))[..., 0]
    (left, right) = ((found == value).flatten(1).float().argmax(1) for value in (1.0, 2.0))
    flipped, down = (left % 24 > right % 24).double(), (left // 24).double()
    across = torch.where(flipped == 1, 23 - left % 24, left % 24).double()
    assert (flipped.mean() - 0.5).abs() < 0.028  # five standard deviations, as below
    for place in (down, across):
        assert torch.bincount(place.long() - 6, minlength=9).sub(8000 / 9).abs().max() < 142
        assert torch.corrcoef(torch.stack([flipped, place]))[0, 1].abs() < 0.056
    assert torch.corrcoef(torch.stack([down, across]))[0, 1].abs() < 0.056


def test_images_are_flipped_where_nothing_is_cropped() -> None:
    images = torch.arange(3.0).view(1, 1, 3, 1).expand(400, 1, 3, 1)
    batches = Batches(images, torch.zeros(400, dtype=torch.int64), 400, Augment(0, True))
    found = batches.gather(torch.tensor([0]), 400, rng.Clock((3, 4), 5))[0][:, 0, 0]
    assert 150 < (found[:, 0] == 2).sum() < 250  # five standard deviations
