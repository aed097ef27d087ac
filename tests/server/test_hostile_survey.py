"""Ten thousand hostile answers among honest ones change nothing that a survey finds."""

from fractions import Fraction

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from jaxtyping import Float32, Float64
from torch import Tensor

from common.moments import moments_of
from common.network import initial_weights, layout_of
from common.wire import HELD_OUT, TRAINING, Answer, Question, pack_answer, unpack_evaluation
from server.fleet import Client
from server.state import initial_state
from server.survey import Survey
from tests.common.wire.test_hostile_answers import ATTACKS, BOUND, EXAMPLES, POINTS
from tests.server.test_survey import JUDGED

LAYOUT = layout_of(JUDGED.model, 1)
SURVEYS, EACH = 20, 20
"""How often is asked, and how many of every attack there are among the answers to each."""

SAMPLES = np.zeros((3, 1, 8, 8), np.uint8)
HONEST = (0, 7, 300)


class Network:
    """Of the features a survey needs to know two things alone."""

    digest: str = "abcdef"
    num_features: int = len(BOUND)

    def bound(self) -> Float64[np.ndarray, "F"]:
        return BOUND

    def features(self, images: Float32[Tensor, "N C H W"]) -> Float64[Tensor, "N F"]:
        raise AssertionError("a survey computes none")


def answer_to(question: Question, shift: float = 0.0) -> RecordDict:
    """Return what an honest client says."""
    points = POINTS + shift
    moments = {TRAINING: moments_of(points), HELD_OUT: moments_of(points[:10])}
    found = Answer(
        held_out=10,
        losses=dict.fromkeys(question.rates, (0.5,) * 8),
        moments=moments if question.features else {},
        nearest=(0.1, 0.2, 0.3, 0.4, 0.5),
        nearest_held_out=(0.1, 0.1, 0.3, 0.4, 0.5),
    )
    return pack_answer(found, question)


def survey_of(partitions: list[int]) -> Survey:
    """Return a survey of clients at half width, of whom nobody has said anything yet."""
    clients = [
        Client(
            node=1000 + partition,
            partition=partition,
            rate=Fraction(1, 2),
            examples=EXAMPLES,
            index=partition,
            count=len(partitions),
        )
        for partition in partitions
    ]
    return Survey(
        config=JUDGED,
        layout=LAYOUT,
        state=initial_state(LAYOUT, initial_weights(JUDGED.model, 1, 0), JUDGED),
        clients=clients,
        network=Network(),
        judging=set(partitions),
        samples=SAMPLES,
    )


def asked(survey: Survey) -> list[Message]:
    """Return the questions as the grid numbers them."""
    questions = []
    for number, message in enumerate(survey.messages()):
        message.metadata.__dict__["_message_id"] = f"question-{number}"
        questions.append(message)
    return questions


def test_hostile_answers_are_named_and_honest_ones_alone_count() -> None:
    attacks = [name for name in ATTACKS for _ in range(EACH)]
    hostile = [p for p in range(len(attacks) + len(HONEST)) if p not in HONEST]
    assert SURVEYS * len(attacks) > 10_000
    expected = None
    for seed in range(SURVEYS):
        rng = np.random.default_rng(seed)
        survey = survey_of([*range(len(attacks) + len(HONEST))])
        replies = []
        for message in asked(survey):
            partition = message.metadata.dst_node_id - 1000
            question = unpack_evaluation(message.content, (1, 8, 8))
            content = answer_to(question, shift=partition / 1000 if partition in HONEST else 0.5)
            if partition not in HONEST:
                ATTACKS[attacks[hostile.index(partition)]](content, rng)
            replies.append(Message(content, reply_to=message))
        findings = survey.collect([replies[i] for i in rng.permutation(len(replies))])
        assert sorted(findings.failures) == hostile
        assert sorted(findings.answers) == [*HONEST]
        reference = findings.reference(initial_state(LAYOUT, np.zeros(LAYOUT.size, np.float32),
                                                     JUDGED).reference)  # fmt: skip
        assert reference.given == HONEST
        bits = {name: moments.vector().tobytes() for name, moments in reference.sets.items()}
        alone = moments_of(np.concatenate([POINTS + p / 1000 for p in HONEST]))
        np.testing.assert_allclose(reference.sets[TRAINING].vector(), alone.vector(), rtol=1e-9)
        expected = expected or bits
        assert bits == expected, "whatever the others send, in whatever order"


@pytest.mark.parametrize("from_whom", ["another", "nobody", "twice"])
def test_an_answer_to_somebody_else_s_question_counts_for_nobody(from_whom: str) -> None:
    survey = survey_of([0, 1])
    first, second = asked(survey)
    replies = [
        Message(answer_to(unpack_evaluation(each.content, (1, 8, 8))), reply_to=each)
        for each in (first, second)
    ]
    if from_whom == "another":
        replies[1].metadata.__dict__["_src_node_id"] = 1000
    elif from_whom == "nobody":
        replies[1].metadata.__dict__["_reply_to_message_id"] = "question-99"
    else:
        replies[1] = replies[0]
    findings = survey.collect(replies)
    assert sorted(findings.answers) == [0]
    assert findings.failures == {1: "no answer"}
