"""What is measured on trained networks and on single layers."""

import numpy as np
import pytest
import torch
from torch import nn

from nin_repro.claims import map_numbers
from nin_repro.config.compose import load
from nin_repro.models.nin import NetworkInNetwork
from nin_repro.models.shape import Shape
from nin_repro.probes import forms
from nin_repro.probes.maps import Shares, map_shares
from nin_repro.probes.translation import DIRECTIONS, shifted, translation_errors


@pytest.mark.parametrize("rows", [-4, -1, 0, 2])
@pytest.mark.parametrize("columns", [-3, 0, 1])
def test_moved_images_are_the_images_with_zeros_coming_in(rows: int, columns: int) -> None:
    images = np.random.default_rng(0).normal(size=(2, 6, 5, 3))
    expected = np.zeros_like(images)
    for y in range(6):
        for x in range(5):
            if 0 <= y - rows < 6 and 0 <= x - columns < 5:
                expected[:, y, x] = images[:, y - rows, x - columns]
    assert np.array_equal(shifted(torch.from_numpy(images), rows, columns).numpy(), expected)


class Corner(nn.Module):
    """Says class 1 if the top left pixel is not zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = (x[:, 0, 0, 0] != 0).float()
        return torch.stack([1 - seen, seen], 1)


def test_errors_on_moved_images_are_by_shift_and_direction() -> None:
    images = torch.zeros(3, 4, 4, 1)
    images[0, 0, 0] = images[1, 0, 2] = images[2, 1, 0] = 1.0
    found = translation_errors(Corner(), images, torch.tensor([1, 0, 0]), (0, 2), lambda line: None)  # type: ignore[arg-type]
    assert list(DIRECTIONS) == ["down", "up", "right", "left"]
    # The first always leaves the corner; only moved left does another come there.
    assert found == [[0.0] * 4, pytest.approx([100 / 3, 100 / 3, 100 / 3, 200 / 3])]


def small_network() -> NetworkInNetwork:
    config = load(["experiment=quickstart"])
    network = NetworkInNetwork(Shape(1, 8, 8), 10, config.architecture, config.regularizer)  # type: ignore[arg-type]
    network.initialise(0, 0)
    return network


def test_shares_are_those_of_the_largest_tenth_of_all_maps() -> None:
    network, random = small_network(), np.random.default_rng(0)
    images = torch.from_numpy(random.normal(size=(7, 8, 8, 1)).astype(np.float32))
    labels = torch.from_numpy(random.integers(0, 10, 7))
    found = map_shares(network, images, labels)
    network.eval()
    with torch.no_grad():
        last = network.blocks(images.permute(0, 3, 1, 2)).double().numpy()
    for maps, share in zip(last, found.shares.numpy(), strict=True):
        order = np.argsort(-maps.ravel(), kind="stable")[: maps.size // 10]
        mass = np.zeros(maps.size)
        mass[order] = np.maximum(maps.ravel()[order], 0)
        by_map = mass.reshape(maps.shape).sum((1, 2))
        assert share == pytest.approx(by_map / by_map.sum() if by_map.sum() else by_map)
    assert found.shares.sum() > 0
    with torch.no_grad():
        assert torch.equal(found.right, network(images.permute(0, 3, 1, 2)).argmax(1) == labels)


def test_a_network_that_answers_nothing_has_no_share() -> None:
    network = small_network()
    for layer in network.convolutions():
        nn.init.constant_(layer.bias, -1.0)  # type: ignore[arg-type]
        nn.init.zeros_(layer.weight)
    found = map_shares(network, torch.ones(3, 8, 8, 1), torch.tensor([0, 1, 2]))
    assert bool((found.shares == 0).all())


def test_shares_by_class_know_the_nearest_rival() -> None:
    shares = torch.tensor([[0.6, 0.4, 0.0], [0.2, 0.8, 0.0], [0.5, 0.1, 0.4], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = map_numbers(Shares(shares, torch.tensor([True, False, True, False])), torch.tensor([0, 0, 2, 2]))
    assert found["share"] == pytest.approx((60 + 20 + 40 + 0) / 4)
    assert found["share_right"] == pytest.approx((60 + 40) / 2)
    assert (found["silent_images"], found["class_images"]) == (1, [2, 2])
    assert (found["class_share"], found["rival"], found["rival_share"]) == ([40.0, 20.0], [1, 0], [60.0, 25.0])


# --- single layers ---------------------------------------------------------------------------------------------------


def test_forms_agree_and_a_wrong_form_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(forms.compare_forms(3, [6, 5, 4], 5, 0)["differences"]) < 1e-14
    monkeypatch.setattr(forms, "FORMS", (lambda block, images: forms.sliding_perceptron(block, images.flip(2)),))
    assert forms.compare_forms(3, [6, 5, 4], 5, 0)["differences"][0] > 0.01


def test_a_maxout_unit_fits_the_convex_function_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "FIT", forms.FIT | {"seeds": 3, "side": 7, "steps": 150, "rate": 0.1})
    found = forms.fit_layers()
    assert {found[name][layer]["parameters"] for name in found for layer in ("maxout", "perceptron")} == {45}
    assert min(found["bowl"]["maxout"]["errors"]) < 0.3
    assert min(found["cap"]["maxout"]["errors"]) > 0.95  # no better than a constant
    assert min(found["cap"]["perceptron"]["errors"]) < 0.3
    assert found["cap"]["perceptron"]["bulge"] > 1e-3 > 1e-12 > found["saddle"]["maxout"]["bulge"]
    # The kept values are those that the error is of.
    target, best = (np.array(value) for value in (found["saddle"]["target"], found["saddle"]["maxout"]["best"]))
    error = np.sqrt(np.mean((best - target) ** 2)) / target.std()
    assert error == pytest.approx(min(found["saddle"]["maxout"]["errors"]), abs=1e-3)
