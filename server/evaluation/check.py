"""Whether features can tell good images from bad: asked of them before anything is ranked by them.

Images are damaged in ways that anybody sees, and each damage has to read clearly further from the
training images than the same images do undamaged. They are training images: held-out ones may be
so few that their distance is that of their number, whatever is done to them.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from common.features import damaged
from common.features.damage import DAMAGES, PURE_NOISE, UNDAMAGED

Images = Float[Tensor, "N C H W"]

MOST = 512
"""Images that are damaged at most, and no more than half of what there are."""

CLEARLY = 1.25
"""How many times the distance of undamaged images a damaged set has to read at least."""

FAR = 4.0
"""The same for pure noise."""

VISIBLE = 2 / 255
"""Root mean square of a change that can be seen, a grey level: blurred sky is still that sky."""


@dataclass(frozen=True)
class FeatureCheck:
    """What a check has found.

    Attributes:
        distances: Fréchet distance of the images as they are and in each damage.
        faults: In words, what reads no further than it may; empty if the features passed.
    """

    distances: Mapping[str, float]
    faults: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether anything may be ranked by these features."""
        return not self.faults

    def record(self) -> dict[str, Any]:
        """Return all of it for the summary."""
        return {
            "passed": self.passed,
            "faults": list(self.faults),
            "distances": dict(self.distances),
        }

    @property
    def line(self) -> str:
        """What was found, in one line."""
        found = ", ".join(
            f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.distances.items()
        )
        if self.passed:
            return f"features tell damaged images from good ones: {found}"
        return (
            f"features cannot tell damaged images from good ones ({'; '.join(self.faults)}), so "
            "that nothing is ranked by them"
        )


def check_features(
    frechet: Callable[[Images], float],
    images: Images,
    kinds: Int64[np.ndarray, " N"],
    generator: torch.Generator,
) -> FeatureCheck:
    """Measure damaged images and judge the order of their distances.

    A damage that does not show on these images, such as a blur of smooth ones, is no fault.

    Args:
        frechet: The distance to the training images, in the features to be checked.
        images: Some of the training images, in [-1, 1].
        kinds: Which kind each is of; with two or more, half of them missing is a damage too.
        generator: Draws the noise.
    """
    sets = damaged(images, generator)
    present = np.unique(kinds)
    if len(present) > 1:
        left = np.flatnonzero(np.isin(kinds, present[: len(present) // 2]))
        # As many images as the others, since a distance falls with their number.
        sets["half_the_kinds"] = images[torch.from_numpy(np.resize(left, len(images)))]
    found = {name: frechet(each) for name, each in sets.items()}
    seen = {
        name for name, each in sets.items() if float((each - images).square().mean()) > VISIBLE**2
    }
    return judged(found, seen)


def judged(distances: Mapping[str, float], seen: Collection[str] = DAMAGES) -> FeatureCheck:
    """Judge the order of some distances, among which are those of `common.features.damaged`.

    Args:
        distances: By the name of a damage.
        seen: The damages that can be seen in these images at all.
    """
    undamaged = distances[UNDAMAGED]
    faults = tuple(
        f"{name.replace('_', ' ')} reads {value:.3g}, undamaged {undamaged:.3g}"
        for name, value in distances.items()
        if name in seen
        and name != UNDAMAGED
        and not value > undamaged * (FAR if name == PURE_NOISE else CLEARLY)
    )
    return FeatureCheck(distances, faults)
