"""Who teaches whom, and how much: a function of what the server has measured.

A client of the full width never sees the images of those who cannot hold it, and the coordinates
that only it trains forget them. The narrow widths are trained by everybody. So before a round the
server draws images from a narrow width of the averaged weights and sends them along with the tasks
of clients that train a wider one, who mix them into their batches. It is generative replay (Shin et
al. 2017) between widths in place of tasks. FedDDPM (arXiv 2503.06426) has the server draw auxiliary
images as well, there from the clients' own models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Lesson:
    """What a width is taught.

    Attributes:
        teacher: The width that draws the images.
        share: The part of a batch that is taken from them.
    """

    teacher: Fraction
    share: Fraction


def plan(
    distances: Mapping[Fraction, float], held: Mapping[Fraction, float], batch_size: int
) -> dict[Fraction, Lesson]:
    """Return by width of clients what they are taught, if anything.

    The teacher is the narrower width that samples best. Were it perfect, it would stand in for all
    images that no client of the width, or of a wider one, holds; their part of all images is the
    share of a batch then. It is trusted as far as its samples have come from noise towards images:
    of a distance d, where noise's is 1, the share is 1 - d of that.

    A mixture with a share s of samples at a distance d is at about s² d from the images, as the
    Fréchet distance is a square: a width that already does better is not taught.

    Args:
        distances: Of samples of each width, noise's as 1; of those that are known.
        held: By width the weight of its clients in the average: their images, or their number.
        batch_size: Of a local step.
    """
    total, lessons = sum(held.values()), {}
    for width in held:
        narrower = {rate: distance for rate, distance in distances.items() if rate < width}
        if not narrower or width not in distances:
            continue
        teacher = min(narrower, key=lambda rate: (narrower[rate], -rate))
        unseen = sum(count for rate, count in held.items() if rate < width) / total
        share = unseen * max(0.0, 1 - narrower[teacher])
        examples = round(share * batch_size)
        if examples and distances[width] > share**2 * narrower[teacher]:
            lessons[width] = Lesson(teacher, Fraction(examples, batch_size))
    return lessons
