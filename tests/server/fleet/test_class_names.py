"""Names of classes: who fixes them, and who is refused with others."""

import logging
from collections.abc import Sequence

import pytest

from common.config.run import RunConfig
from common.wire.records import WireError
from common.wire.rollcall import RollCall
from server.fleet.classes import ClassNames


def _answer(*classes: str) -> RollCall:
    return RollCall(0, 10, (1, 8, 8), classes=classes)


def _config(classes: int, **changes: object) -> RunConfig:
    return RunConfig.from_tree(
        {
            "data": "clients",
            "image-shape": "1x8x8",
            "evaluation": {"features": "untrained"},
            "model": {"num-classes": classes},
            **changes,
        }
    )


def _agreed(config: RunConfig, *answers: RollCall) -> ClassNames:
    names = ClassNames(config, fixed=False)
    for place, answer in enumerate(answers):
        names.check(answer, answers[:place])
    names.fix(answers)
    return names


@pytest.mark.parametrize(
    ("held", "names"),
    [
        ([("dog", "cat"), ("owl", "cat")], ("cat", "dog", "owl")),
        ([("2022",), ("2021",)], ("2021", "2022")),
        ([("2",), ("0",)], ()),  # numbers are themselves, and no others are told
        ([("dog", "1"), ("cat",)], ("1", "cat", "dog")),
    ],
)
def test_those_at_the_start_fix_the_names_in_order(
    held: Sequence[Sequence[str]], names: tuple[str, ...]
) -> None:
    answers = [_answer(*each) for each in held]
    assert _agreed(_config(3), *answers).names == names
    assert _agreed(_config(3), *reversed(answers)).names == names


def test_whoever_comes_later_has_no_other_classes() -> None:
    names = _agreed(_config(3), _answer("cat", "dog"))
    names.check(_answer("dog"), [])
    names.check(_answer(), [])  # who takes part of the run's own data
    unknown = "class 'owl', which this run does not know; its classes are cat, dog$"
    with pytest.raises(WireError, match=unknown):
        names.check(_answer("cat", "owl"), [])
    numbers = _agreed(_config(3), _answer("0"))
    numbers.check(_answer("2"), [])
    with pytest.raises(WireError, match=r"its classes are the numbers 0 … 2$"):
        numbers.check(_answer("3"), [])


def test_one_class_too_many_is_the_fault_of_who_brings_it() -> None:
    too_many = r"its classes \(owl\) there are 3 in all \(cat, dog, owl\), .*num-classes=2$"
    with pytest.raises(WireError, match=too_many):
        _agreed(_config(2), _answer("cat", "dog"), _answer("owl"))
    with pytest.raises(WireError, match="there are 6 in all"):
        _agreed(_config(2), _answer("0"), _answer("5"))


def test_a_run_without_classes_asks_for_none() -> None:
    names = _agreed(_config(0), _answer("cat"), _answer("dog"))
    names.check(_answer("owl"), [])
    assert names.names == ()


def test_fewer_classes_than_the_run_has_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flwr"):
        _agreed(_config(3), _answer("cat", "dog"))
    assert "classes: cat, dog" in caplog.messages
    assert "model.num-classes: 3, of which nobody has more than 2" in caplog.messages


def test_what_the_data_or_the_run_before_say_stands() -> None:
    names = ClassNames(_config(3), ("dog", "cat", "ape"))
    names.fix([_answer("cat", "owl")])
    assert names.names == ("dog", "cat", "ape")


def test_with_privacy_nothing_depends_on_the_names_that_clients_have() -> None:
    private = {"privacy": {"noise-multiplier": 1.0}, "weighting": "uniform"}
    names = ClassNames(_config(3, **private), fixed=False)
    with pytest.raises(WireError, match=r"its classes are the numbers 0 … 2$"):
        names.check(_answer("cat"), [])
    names.fix([_answer("cat")])
    assert names.names == ()
