"""Every distance between samples and training images: what is asked for once, at a run's end."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from common.data import ImageData
from server.evaluation.distances import (
    NEIGHBOURS,
    manifold_scores,
    mean_nearest,
    sliced_wasserstein,
    wasserstein,
)
from server.evaluation.evaluator import Evaluator
from server.evaluation.metrics import FrechetTo, kernel_distance

Images = Float[Tensor, "N C H W"]

PROJECTIONS = 128
WASSERSTEIN_IMAGES = 256
HELD_OUT_IMAGES = 2048


def full_report(evaluator: Evaluator, images: Images) -> dict[str, Any]:
    """Return every distance between `images`, in [-1, 1], and the training images.

    Keys: `frechet`, `frechet_to_noise` (its ratio to `noise_baseline`), `frechet_reference`,
    `kernel`, `kernel_std` (kernel distance, Bińkowski et al. 2018), `precision`, `recall`,
    `density`, `coverage` (see `manifold_scores`), `sliced_wasserstein` (of pixels, p = 2),
    `nearest_train`, `nearest_train_held_out` (root-mean-square difference per value to the
    nearest training image: far below the held-out images' own means memorised),
    `wasserstein`, `wasserstein_held_out` (exact, see there, of `WASSERSTEIN_IMAGES` pixels),
    the shares `classes` and `classes_train` of each predicted class with `class_distance`,
    half the sum of their differences, and `by_class`: for each class the number of images
    predicted to be of it and their Fréchet distance to its training images, beside
    that of the held-out images' (None below two images; few read high, so compare a
    class with itself). Data without classes have clusters in their place (`kinds_of`).

    Where an image is not finite there is `frechet` alone, NaN.

    Raises:
        ValueError: There are not more than `NEIGHBOURS` images.
    """
    if len(images) <= NEIGHBOURS:
        raise ValueError(f"need more than {NEIGHBOURS} images, got {len(images)}")
    if not images.isfinite().all():
        return {"frechet": math.nan}
    real, train, held_out = evaluator.real, evaluator.splits.train, _some_held_out(evaluator)
    fake = evaluator.extractor.features(images)
    chosen = evaluator.rng("manifold").permutation(len(real))[: len(fake)]
    frechet = evaluator.frechet(images)
    kernel, kernel_std = kernel_distance(real, fake, evaluator.generator("kernel-subsets"))
    extractor = evaluator.extractor
    classes, classes_train = (
        _class_shares(evaluator, each)
        for each in (_predicted(evaluator, images), extractor.predicted(train))
    )
    seed = int(evaluator.rng("sliced-wasserstein").integers(2**31))
    return {
        "frechet": frechet,
        "frechet_to_noise": frechet / evaluator.noise_baseline,
        "frechet_reference": evaluator.reference,
        "kernel": kernel,
        "kernel_std": kernel_std,
        **manifold_scores(real[chosen], fake[: len(chosen)], NEIGHBOURS),
        "sliced_wasserstein": sliced_wasserstein(images, _parts(train), PROJECTIONS, seed),
        "wasserstein": _wasserstein(evaluator, images),
        "wasserstein_held_out": _wasserstein(evaluator, held_out),
        "nearest_train": mean_nearest(images, _parts(train)),
        "nearest_train_held_out": mean_nearest(held_out, _parts(train)),
        "classes": classes,
        "classes_train": classes_train,
        "class_distance": sum(abs(a - b) for a, b in zip(classes, classes_train, strict=True)) / 2,
        "by_class": _by_class(evaluator, images),
    }


def _by_class(evaluator: Evaluator, images: Images) -> dict[str, dict[str, float | int | None]]:
    """Return Fréchet distances class by class, of images and of the held-out ones."""
    extractor, test = evaluator.extractor, evaluator.splits.test
    predicted, theirs = _predicted(evaluator, images), extractor.predicted(test)
    ours, others = extractor.features(images), extractor.features_of(test)
    kinds = evaluator.extractor.kinds
    labels = torch.from_numpy(kinds.train)
    table: dict[str, dict[str, float | int | None]] = {}
    for k in range(kinds.count):
        row: dict[str, float | int | None] = {"images": int((predicted == k).sum())}
        real = evaluator.real[labels == k]
        named = {"frechet": ours[predicted == k], "frechet_held_out": others[theirs == k]}
        for name, fake in named.items():
            row[name] = FrechetTo(real)(fake) if min(len(fake), len(real)) > 1 else None
        table[str(k)] = row
    return table


def _wasserstein(evaluator: Evaluator, images: Images) -> float:
    train, test = evaluator.splits
    count = min(WASSERSTEIN_IMAGES, len(images), len(train), len(test))
    chosen = evaluator.rng("wasserstein").permutation(len(train))[:count]
    return wasserstein(images[:count], torch.from_numpy(train.values(chosen)))


def _predicted(evaluator: Evaluator, images: Images) -> Int64[Tensor, " N"]:
    return evaluator.extractor.probabilities(images).argmax(dim=1)


def _class_shares(evaluator: Evaluator, predicted: Int64[Tensor, " N"]) -> list[float]:
    count = evaluator.extractor.kinds.count
    counts = torch.bincount(predicted, minlength=count)
    return [float(share) for share in counts.double() / len(predicted)]


def _parts(data: ImageData) -> Iterator[Images]:
    return (torch.from_numpy(each) for each in data.batches())


def _some_held_out(evaluator: Evaluator) -> Images:
    """Return the held-out images, or of very many some, since each is compared with all others."""
    test = evaluator.splits.test
    if len(test) <= HELD_OUT_IMAGES:
        return torch.from_numpy(test.images)
    chosen = evaluator.rng("some-held-out").permutation(len(test))[:HELD_OUT_IMAGES]
    return torch.from_numpy(test.values(chosen))
