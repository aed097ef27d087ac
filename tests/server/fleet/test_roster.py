"""The roster keeps what it is told about its members, and changes by being told."""

from fractions import Fraction

from common.config.run import RunConfig
from common.network.unet import layout_of
from server.fleet.roster import Roster
from tests.local_grid import LocalGrid

CONFIG = RunConfig(fleet="1x2 1/2x1")
LAYOUT = layout_of(CONFIG.model, 1)
HALF = Fraction(1, 2)


def _roster(limits: dict[int, Fraction] | None = None) -> tuple[Roster, LocalGrid]:
    grid, roster = LocalGrid(CONFIG), Roster(CONFIG, LAYOUT, (1, 8, 8), limits)
    roster.start(grid)
    return roster, grid


def test_a_client_whose_memory_ran_out_gets_less_from_then_on() -> None:
    roster, _ = _roster({1: HALF})
    before = roster.fleet()
    assert [client.rate for client in before] == [1, HALF, HALF]
    assert roster.fleet() is before
    roster.lower(0, Fraction(1, 4))
    assert [client.rate for client in roster.fleet()] == [Fraction(1, 4), HALF, HALF]
    roster.lower(2, Fraction(0))
    assert [client.present for client in roster.fleet()] == [True, True, False]
    assert roster.limits == {0: Fraction(1, 4), 1: HALF, 2: 0}
    roster.limits.clear()  # the caller's own
    assert len(roster.limits) == 3


def test_events_are_told_once() -> None:
    roster, grid = _roster()
    assert roster.take_events() == {}
    node = next(iter(grid.nodes))
    partition = grid.nodes.pop(node)
    roster.update(grid)
    assert roster.take_events() == {partition: "left"}
    assert roster.take_events() == {}


def test_a_newcomer_takes_the_place_of_one_that_failed_at_its_last_task() -> None:
    roster, grid = _roster()
    (node,) = (node for node, partition in grid.nodes.items() if partition == 1)

    def newcomer(number: int) -> int:
        grid.nodes[number], grid.contexts[number] = 1, grid.contexts[node]
        roster.update(grid)
        return roster.fleet()[1].node

    assert newcomer(5) == node, "one who answers keeps its place"
    roster.heard(asked=[0, 1, 2], failed=[1])
    roster.heard(asked=[0], failed=[])  # says nothing of client 1
    roster.update(grid)
    assert roster.fleet()[1].node == 5
    assert newcomer(6) == 5, "who came in has not failed yet"
    roster.heard(asked=[1], failed=[1])
    roster.heard(asked=[1], failed=[])
    roster.update(grid)
    assert roster.fleet()[1].node == 5
