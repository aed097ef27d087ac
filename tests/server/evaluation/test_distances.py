import pytest
import torch

from server.evaluation.distances import manifold_scores, mean_nearest, nearest, wasserstein


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
    distances, which = nearest(images, others)
    assert which.tolist() == [0, 1, 1]
    torch.testing.assert_close(distances.float(), torch.tensor([0.1, 0.2, 2.0]))
    assert mean_nearest(images, others) == pytest.approx((0.1 + 0.2 + 2) / 3)


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
