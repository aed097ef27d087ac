"""Our own feature network: a small convolutional classifier, trained or not.

Inception weights are made for photographs and have to be downloaded; this sees what matters in 8x8
digits and needs no download. Everybody who knows the images' shape has the same untrained one,
whose features rank images nearly as a trained one's do (`python -m benchmarks.features`).
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from common.files import write_tensors
from common.seeding import SERVER, rng_for, torch_generator

FEATURES, WIDTH = 64, 32

BATCH = 256
"""Batches of one size whatever the caller's, so that rounding does not depend on the caller."""

UNTRAINED_CLASSES = 2
"""An untrained network classifies nothing, but has a last layer like the others."""


@runtime_checkable
class FeatureNetwork(Protocol):
    """What images are compared by.

    Attributes:
        digest: Twelve hex digits that name the network; distances under different digests cannot be
            compared.
        num_features: F.
    """

    digest: str
    num_features: int

    def features(self, images: Float32[Tensor, "N C H W"]) -> Float64[Tensor, "N F"]:
        """Return the features of images in [-1, 1]."""
        ...

    def bound(self) -> Float64[np.ndarray, "F"]:
        """Return what no feature's size can exceed, infinite where that is not known."""
        ...


class Classifier(nn.Module):
    """A convolutional classifier: halved down to 4x4, then a hidden layer of features."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        wide = WIDTH
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
        self.hidden = nn.Linear(wide * height * width, FEATURES)
        self.output = nn.Linear(FEATURES, num_classes)

    def features(self, x_BCHW: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B F"]:
        """The last hidden layer, before its nonlinearity."""
        hidden: Tensor = self.hidden(self.stages(x_BCHW))
        return hidden

    def forward(self, x_BCHW: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B K"]:
        """Unnormalised log-probabilities of the classes."""
        logits: Tensor = self.output(functional.relu(self.features(x_BCHW)))
        return logits


class OurFeatures:
    """The features of a classifier's weights.

    Args:
        image_shape: (C, H, W) of the images.
        weights: By parameter.

    Attributes:
        digest: The first 12 hex digits of the weights' SHA-256.
        num_features: F.

    Raises:
        ValueError: They are not a classifier's of such images.
    """

    num_features = FEATURES

    def __init__(
        self, image_shape: tuple[int, int, int], weights: Mapping[str, np.ndarray]
    ) -> None:
        classes = weights["output.bias"].size if "output.bias" in weights else 1
        self._image_shape = image_shape
        with torch.device("meta"):  # a skeleton; drawing weights would advance global randomness
            self.classifier = Classifier(image_shape, classes)
        tensors = {name: torch.from_numpy(weight) for name, weight in weights.items()}
        try:
            self.classifier.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1].strip()
            raise ValueError(f"not of this architecture and image shape ({last})") from None
        self.classifier.eval().requires_grad_(False)
        self.digest = digest_of(weights)

    def features(self, images: Float32[Tensor, "N C H W"]) -> Float64[Tensor, "N F"]:
        """Features of images in [-1, 1]; float64, as covariances of them are to be."""
        return self.batched(self.classifier.features, images).double()

    def bound(self) -> Float64[np.ndarray, "F"]:
        """Return the features' size if every product in the network were as large as it can be."""
        sizes = {name: abs(value) for name, value in self.classifier.state_dict().items()}
        with torch.device("meta"):
            absolute = Classifier(self._image_shape, len(sizes["output.bias"]))
        absolute.load_state_dict(sizes, assign=True)
        with torch.no_grad():
            bound = absolute.features(torch.ones(1, *self._image_shape))[0]
        return bound.double().numpy()

    def probabilities(
        self, images: Float32[Tensor, "N C H W"], count: int
    ) -> Float64[Tensor, "N K"]:
        """Probability of each of the first `count` classes, given that it is one of them."""
        return self.batched(self.classifier, images)[:, :count].double().softmax(dim=1)

    @torch.no_grad()
    def batched(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Return what a function of batches gives for all images."""
        return torch.cat([function(batch.cpu().float()) for batch in images.split(BATCH)])


def untrained(image_shape: tuple[int, int, int]) -> OurFeatures:
    """Return the network with the random weights that everybody draws for such images."""
    with torch.random.fork_rng(devices=[]):
        generator = torch_generator(rng_for(0, 0, SERVER, "untrained-features"))
        torch.random.set_rng_state(generator.get_state())
        state = Classifier(image_shape, UNTRAINED_CLASSES).state_dict()
    return OurFeatures(image_shape, {name: value.numpy() for name, value in state.items()})


def write_features(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Write a classifier's weights to a safetensors file that `read_features` reads."""
    write_tensors(path, dict(weights), {"digest": digest_of(weights)})


def read_features(path: Path, image_shape: tuple[int, int, int], key: str) -> OurFeatures:
    """Return the network of a safetensors file.

    Args:
        path: The file.
        image_shape: (C, H, W) of the images.
        key: What names the file, for messages.

    Raises:
        UserError: The file cannot be read or holds no classifier of such images.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    shape = "x".join(map(str, image_shape))
    try:
        return OurFeatures(image_shape, load_file(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{key}: {path} holds no features of {shape} images ({error})") from None


def digest_of(weights: Mapping[str, np.ndarray]) -> str:
    """Return the first 12 hex digits of the SHA-256 of weights."""
    state = hashlib.sha256()
    for name in sorted(weights):
        state.update(name.encode() + weights[name].tobytes())
    return state.hexdigest()[:12]
