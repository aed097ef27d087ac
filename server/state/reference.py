"""What the clients have said of their images: the moments that samples are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.moments import Moments


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Moments of features of the clients' images, added up over those who gave them.

    Attributes:
        sets: By the name of a set of images, such as "training".
        given: Partitions of those whose images are in it, in order.
        withheld: By partition why a client gives none.
    """

    sets: Mapping[str, Moments] = field(default_factory=dict)
    given: tuple[int, ...] = ()
    withheld: Mapping[int, str] = field(default_factory=dict)

    def asked(self, partition: int) -> bool:
        """Say whether a client has answered already."""
        return partition in self.given or partition in self.withheld

    def joined(
        self, gifts: Mapping[int, Mapping[str, Moments]], withheld: Mapping[int, str]
    ) -> "Reference":
        """Return the reference with what others gave, the same in whatever order they came.

        Args:
            gifts: By partition the moments of its sets.
            withheld: By partition why there are none.
        """
        sets = dict(self.sets)
        for _, moments in sorted(gifts.items()):
            for name, each in moments.items():
                sets[name] = sets[name] + each if name in sets else each
        return Reference(
            sets=dict(sorted(sets.items())),
            given=tuple(sorted({*self.given, *gifts})),
            withheld=dict(sorted({**self.withheld, **withheld}.items())),
        )
