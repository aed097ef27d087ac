"""The classifier of a data set's kinds, and the features that its sample distances are measured in.

It tells the data's kinds apart: their classes, or clusters where there are none (`kinds_of`). Its
own features are those of distances unless the run names another network.
"""

from collections.abc import Mapping
from importlib.metadata import version

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional

from common.cache import cached_arrays
from common.data import ImageData, Splits
from common.features import Classifier, FeatureNetwork, OurFeatures
from common.features.network import FEATURES, WIDTH
from common.seeding import SERVER, rng_for, torch_generator
from server.evaluation.kinds import Lesson, kinds_of

# All of these are part of the cache key and, through the weights, of the digest.
SETTINGS: Mapping[str, float] = {
    "features": FEATURES,
    "width": WIDTH,
    "steps": 400,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "seed": 0,
}


class FeatureExtractor:
    """The trained classifier of one data set's kinds, and a feature network: by default the same.

    The first use trains it on `splits.train`, on one thread and with fixed seeds, and keeps the
    weights in the cache; so the same data give the same weights on the same machine.

    Args:
        splits: The data set.
        network: What distances are measured in, the classifier's own features if None.

    Attributes:
        kinds: what the classifier tells apart.
        accuracy: the share of `splits.test` that it classifies correctly.
        weights: the classifier's, by parameter.
        network: what distances are measured in.
        digest: that of the network; distances under different ones cannot be compared.
    """

    def __init__(self, splits: Splits, network: FeatureNetwork | None = None) -> None:
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
        self.weights = cached_arrays(f"classifier-{train.name}", key, lambda: _train(train))
        self._ours = OurFeatures(train.image_shape, self.weights)
        self.network = network or self._ours
        self.digest = self.network.digest
        self.accuracy = float((self.predicted(splits.test).numpy() == self.kinds.test).mean())

    @property
    def num_features(self) -> int:
        """F, the dimension of `features`."""
        return self.network.num_features

    def features(self, images: Float32[Tensor, "N C H W"]) -> Float64[Tensor, "N F"]:
        """Features of images in [-1, 1]."""
        return self.network.features(images)

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
        return self._ours.probabilities(images, self.kinds.count)


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
