import math

import pytest
import torch

from server.evaluation.distances import (
    manifold_scores,
    mean_nearest,
    nearest,
    sliced_wasserstein,
    wasserstein,
)


def test_manifold_scores_by_hand() -> None:
    real = torch.tensor([0.0, 1, 3, 4, 12, 50], dtype=torch.float64)[:, None]  # radii 1 1 1 1 8 38
    fake = torch.tensor([0.5, 0.6, 10, 30, 100], dtype=torch.float64)[:, None]  # .1 .1 9.4 20 70
    # Real balls around each fake point: {0, 1}, {0, 1}, {12}, {50}, none.
    assert manifold_scores(real, fake, 1) == {
        "precision": 4 / 5,
        "recall": 5 / 6,
        "density": pytest.approx(6 / 5),
        "coverage": 4 / 6,
    }


def test_recall_is_precision_seen_from_the_other_side() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = 2 * torch.randn(60, 2, generator=generator, dtype=torch.float64)
    narrow = torch.randn(40, 2, generator=generator, dtype=torch.float64) + 1
    there, back = manifold_scores(wide, narrow, 3), manifold_scores(narrow, wide, 3)
    assert (there["precision"], there["recall"]) == (back["recall"], back["precision"])
    assert there["recall"] < 0.8 < 0.9 < there["precision"]


def test_nearest_images_by_hand() -> None:
    others = torch.zeros(2, 1, 2, 2)
    others[1] = 1.0
    images = torch.tensor([0.1, 0.8, 3.0])[:, None, None, None].expand(3, 1, 2, 2)
    distances, which = nearest(images, others.split(2))
    assert which.tolist() == [0, 1, 1]
    torch.testing.assert_close(distances.float(), torch.tensor([0.1, 0.2, 2.0]))
    assert mean_nearest(images, others.split(2)) == pytest.approx((0.1 + 0.2 + 2) / 3)


def test_wasserstein_by_hand() -> None:
    others = torch.tensor([0.0, 4.0, 10.0])[:, None, None, None].expand(3, 1, 2, 2)
    # In any order the best matching goes 1 -> 0, 4 -> 4 and 12 -> 10.
    images = torch.tensor([12.0, 1.0, 4.0])[:, None, None, None].expand(3, 1, 2, 2)
    assert wasserstein(images, others) == pytest.approx(((1 + 0 + 4) / 3) ** 0.5)
    assert wasserstein(others.flip(0), others) == 0


def test_wasserstein_of_a_shift_is_its_length() -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, 0.0, 0.0])
    assert wasserstein(points + shift, points) == pytest.approx(3 / 3**0.5, rel=1e-5)


def test_sliced_wasserstein_by_hand() -> None:
    points, others = torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [4.0], [4.0]])
    # In sixths of the mass: 0 0 0 3 3 3 against 1 1 4 4 4 4; on a line every direction is the line.
    expected = ((1 + 1 + 16 + 1 + 1 + 1) / 6) ** 0.5
    assert sliced_wasserstein(points, [others], 3, 0) == pytest.approx(expected, rel=1e-15)
    assert sliced_wasserstein(others.flip(0), others.split(2), 3, 0) == 0


def test_sets_repeated_evenly_are_as_far_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    points, others = torch.randn(7, 4, generator=generator), torch.randn(12, 4, generator=generator)
    distance = sliced_wasserstein(points, [others], 20, 5)
    repeated = sliced_wasserstein(points.repeat(12, 1), [others.repeat(7, 1)], 20, 5)
    assert distance == pytest.approx(repeated, rel=1e-14)
    assert distance != pytest.approx(sliced_wasserstein(points, [others], 20, 6), rel=1e-3)


@pytest.mark.parametrize(("shape", "n", "m"), [((1, 8, 8), 256, 720), ((5,), 7, 13)])
def test_wasserstein_distances_are_those_of_pot(shape: tuple[int, ...], n: int, m: int) -> None:
    import ot

    generator = torch.Generator().manual_seed(1)
    points = torch.rand((n, *shape), generator=generator) * 2 - 1
    others = torch.rand((m, *shape), generator=generator) - 1
    ours, theirs = (x.flatten(1).double().numpy() for x in (points, others))
    # POT adds up the weights 1/m, whose sum is off by some 1e-13.
    expected = ot.sliced_wasserstein_distance(ours, theirs, n_projections=50, seed=3)
    assert sliced_wasserstein(points, [others], 50, 3) == pytest.approx(expected, rel=1e-12)
    costs = ot.dist(ours, theirs[:n], "sqeuclidean")
    expected = math.sqrt(ot.emd2([], [], costs) / ours.shape[1])
    assert wasserstein(points, others[:n]) == pytest.approx(expected, rel=1e-14)
