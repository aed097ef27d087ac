"""The classifier whose features the sample distances are measured in.

It tells the data's kinds apart: their classes, or clusters where there are none (`kinds_of`).
Inception weights are made for photographs and have to be downloaded; a small classifier trained on
the data's own training split sees what matters in 8x8 digits, costs seconds and needs no network.
"""

import hashlib
from collections.abc import Callable, Mapping
from importlib.metadata import version

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional

from common.cache import cached_arrays
from common.data import ImageData, Splits
from common.seeding import SERVER, rng_for, torch_generator
from server.evaluation.kinds import Lesson, kinds_of

# All of these are part of the cache key and, through the weights, of the digest.
SETTINGS: Mapping[str, float] = {
    "features": 64,
    "width": 32,
    "steps": 400,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "seed": 0,
}
# Batches of one size whatever the caller's, so that rounding does not depend on the caller.
BATCH = 256


class Classifier(nn.Module):
    """A convolutional classifier: halved down to 4x4, then a hidden layer of features."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        wide = int(SETTINGS["width"])
        stages: list[nn.Module] = [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU()]
        if max(height, width) > 16:
            # Most of the time would go into the largest maps.
            stages = [nn.Conv2d(channels, wide, 4, stride=2, padding=1), nn.ReLU()]
            height, width = height // 2, width // 2
        while max(height, width) > 4:
            stages += [nn.Conv2d(wide, wide, 3, stride=2, padding=1), nn.ReLU()]
            stages += [nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU()]
            height, width = (height + 1) // 2, (width + 1) // 2
        self.stages = nn.Sequential(*stages, nn.Flatten())
        self.hidden = nn.Linear(wide * height * width, int(SETTINGS["features"]))
        self.output = nn.Linear(int(SETTINGS["features"]), num_classes)

    def features(self, x_BCHW: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B F"]:
        """The last hidden layer, before its nonlinearity."""
        hidden: Tensor = self.hidden(self.stages(x_BCHW))
        return hidden

    def forward(self, x_BCHW: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B K"]:
        """Unnormalised log-probabilities of the classes."""
        logits: Tensor = self.output(functional.relu(self.features(x_BCHW)))
        return logits


class FeatureExtractor:
    """The trained classifier of one data set's kinds.

    The first use trains it on `splits.train`, on one thread and with fixed seeds, and keeps the
    weights in the cache; so the same data give the same weights on the same machine.

    Attributes:
        num_features: F, the dimension of `features`.
        digest: the first 12 hex digits of the weights' SHA-256. Distances measured under different
            digests cannot be compared.
        weights: the classifier's, by name.
        kinds: what it tells apart.
        accuracy: the share of `splits.test` that it classifies correctly.
    """

    def __init__(self, splits: Splits) -> None:
        self.kinds = kinds_of(splits)
        train = self.kinds.lesson(splits.train)
        with torch.device("meta"):
            architecture = str(Classifier(train.image_shape, train.num_classes))
        key = {
            "lesson": train.digest(),
            "architecture": architecture,
            "torch": version("torch"),
            **SETTINGS,
        }
        self.load(
            train.image_shape,
            cached_arrays(f"classifier-{train.name}", key, lambda: _train(train)),
        )
        self.accuracy = float((self.predicted(splits.test).numpy() == self.kinds.test).mean())

    def load(self, shape: tuple[int, int, int], weights: dict[str, np.ndarray]) -> None:
        """Take weights of a trained classifier of images (C, H, W)."""
        with torch.device("meta"):  # a skeleton; drawing weights would advance global randomness
            self._classifier = Classifier(shape, len(weights["output.bias"]))
        tensors = {name: torch.from_numpy(weight) for name, weight in weights.items()}
        self._classifier.load_state_dict(tensors, assign=True)
        self._classifier.eval().requires_grad_(False)
        self.weights, self.num_features = weights, int(SETTINGS["features"])
        self.digest = _digest(weights)

    def features(self, images: Float32[Tensor, "N C H W"]) -> Float64[Tensor, "N F"]:
        """Features of images in [-1, 1]; float64, as covariances of them are to be."""
        return self._batched(self._classifier.features, images).double()

    def features_of(self, data: ImageData) -> Float64[Tensor, "N F"]:
        """Features of a whole data set, which need not fit in memory."""
        return torch.cat([self.features(torch.from_numpy(each)) for each in data.batches()])

    def training_features(self, train: ImageData) -> Float64[Tensor, "N F"]:
        """Features of the training images, from the cache where they have been computed before."""
        key = {
            "images": train.digest(),
            "classifier": self.digest,
            "torch": version("torch"),
        }
        build = lambda: {"features": self.features_of(train).numpy()}  # noqa: E731
        return torch.from_numpy(cached_arrays(f"features-{train.name}", key, build)["features"])

    def predicted(self, data: ImageData) -> Int64[Tensor, " N"]:
        """The most probable kind of each image of a data set, which need not fit in memory."""
        parts = (self.probabilities(torch.from_numpy(each)) for each in data.batches())
        return torch.cat([part.argmax(dim=1) for part in parts])

    def probabilities(self, images: Float32[Tensor, "N C H W"]) -> Float64[Tensor, "N K"]:
        """Probability of each kind for images in [-1, 1], given that it is one of them."""
        logits = self._batched(self._classifier, images)[:, : self.kinds.count]
        return logits.double().softmax(dim=1)

    @torch.no_grad()
    def _batched(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return torch.cat([function(batch.cpu().float()) for batch in images.split(BATCH)])


def _train(data: ImageData | Lesson) -> dict[str, np.ndarray]:
    """The weights of a classifier of `data`, by name; AdamW at a linearly falling rate."""
    threads = torch.get_num_threads()
    # Sums over several threads round differently from one run to the next.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            generator = torch_generator(rng_for(int(SETTINGS["seed"]), 0, SERVER, "classifier"))
            torch.random.set_rng_state(generator.get_state())
            return _descend(Classifier(data.image_shape, data.num_classes), data)
    finally:
        torch.set_num_threads(threads)


def _descend(classifier: Classifier, data: ImageData | Lesson) -> dict[str, np.ndarray]:
    labels = torch.from_numpy(data.labels)
    optimizer = torch.optim.AdamW(
        classifier.parameters(), SETTINGS["learning_rate"], weight_decay=SETTINGS["weight_decay"]
    )
    batch_size = min(int(SETTINGS["batch_size"]), len(data))
    steps = int(SETTINGS["steps"])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    for _ in range(steps):
        chosen = torch.randint(len(data), (batch_size,))
        batch = torch.from_numpy(data.values(chosen.numpy()))
        if data.flippable:
            mirrored = torch.rand(batch_size) < 0.5
            batch[mirrored] = batch[mirrored].flip(-1)
        loss = functional.cross_entropy(classifier(batch), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {name: weight.numpy() for name, weight in classifier.state_dict().items()}


def _digest(weights: Mapping[str, np.ndarray]) -> str:
    state = hashlib.sha256()
    for name in sorted(weights):
        state.update(name.encode() + weights[name].tobytes())
    return state.hexdigest()[:12]
