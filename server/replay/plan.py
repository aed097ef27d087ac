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
from typing import NamedTuple


@dataclass(frozen=True)
class Lesson:
    """What a width is taught.

    Attributes:
        teacher: The width that draws the images.
        share: The part of a batch that is taken from them.
    """

    teacher: Fraction
    share: Fraction


class Measured(NamedTuple):
    """What the server knows of a round.

    Attributes:
        distances: By width those of its samples, noise's as 1; of the widths that were measured.
        taught: The widths whose clients were taught in it.
    """

    distances: Mapping[Fraction, float]
    taught: frozenset[Fraction] = frozenset()


def plan(
    measured: Measured, held: Mapping[Fraction, float], batch_size: int
) -> dict[Fraction, Lesson]:
    """Return by width of clients what they are taught, if anything.

    The teacher is the narrower width that samples best. It begins to teach where it samples better
    than the width does, and better than noise.

    How much: a Fréchet distance is the square of an error, and two independent estimates are best
    mixed in inverse proportion to the squares of theirs. Of a width whose own images bring it to a
    distance w and a teacher at t that is a share of w / (w + t) of a batch, and leads to m = w t /
    (w + t). Of a width that is taught already m is what was measured: the same share is m / t then.
    It is no more than the part of all images that no client of the width, or of a wider one, holds:
    a perfect teacher would stand in for these.

    Args:
        measured: What the server knows.
        held: By width the weight of its clients in the average: their images, or their number.
        batch_size: Of a local step.
    """
    distances, total, lessons = measured.distances, sum(held.values()), {}
    for width in held:
        narrower = {rate: distance for rate, distance in distances.items() if rate < width}
        if not narrower or width not in distances:
            continue
        teacher = min(narrower, key=lambda rate: (narrower[rate], -rate))
        theirs, own, taught = narrower[teacher], distances[width], width in measured.taught
        if theirs >= 1 or (theirs >= own and not taught):
            continue
        unseen = sum(count for rate, count in held.items() if rate < width) / total
        needed = own / (theirs if taught else own + theirs) if theirs else 1.0
        examples = round(min(unseen, needed) * batch_size)
        if examples:
            lessons[width] = Lesson(teacher, Fraction(examples, batch_size))
    return lessons
