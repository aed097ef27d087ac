"""A survey: what clients find on their own images, asked in messages of Flower's evaluation.

It is made, sends its questions (`messages`) and takes answers in (`collect`), as an attempt at a
round does. Nothing in it stops a run: who does not answer, or not as asked, is left out and named.
"""

import logging
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from textwrap import shorten

import numpy as np
from flwr.app import Message, MessageType, Metadata
from jaxtyping import UInt8

from common import wire
from common.config import RunConfig
from common.features import FeatureNetwork
from common.submodels import Layout, submodel_of_rate
from common.wire import Answer, Question, WireError
from server.evaluation.pooled import set_names
from server.fleet import GRACE, Client, Packer, widths_within
from server.policies import policy_named
from server.record.findings import Findings
from server.state import ServerState

log = logging.getLogger("flwr")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question that is out.

    Attributes:
        client: Who was asked.
        question: What.
        header: The head of the message, which the grid numbers when it pushes it.
    """

    client: Client
    question: Question
    header: Metadata


class Survey:
    """One exchange of questions and answers with some clients.

    Args:
        config: The run's configuration.
        layout: The full model's layout.
        state: The state that is judged.
        clients: Who is asked.
        network: The features in which moments are asked of those who have not answered yet.
        judging: Partitions that are asked for the losses of their width and of narrower ones.
        samples: Images whose nearest training images each looks for.
        classes: What the run calls its classes, nothing where they are numbers.
    """

    def __init__(
        self,
        *,
        config: RunConfig,
        layout: Layout,
        state: ServerState,
        clients: Iterable[Client],
        network: FeatureNetwork,
        judging: Container[int] = (),
        samples: UInt8[np.ndarray, "N C H W"] | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        self._classes = classes
        self._config, self._layout, self._state = config, layout, state
        self._network, self._judging, self._samples = network, judging, samples
        self._bound = network.bound()
        self._sets = set_names(config)
        self._clients = [client for client in clients if self._question(client) is not None]
        self._open: list[Asked] = []
        self._findings = Findings()

    def _question(self, client: Client) -> Question | None:
        """Return what a client is asked, None for nothing."""
        rates = self._rates(client.rate) if client.partition in self._judging else ()
        new = not self._state.reference.asked(client.partition)
        if not (rates or new or self._samples is not None):
            return None
        kinds = f"{bool(rates)} {new} {self._samples is not None}"
        return Question(
            number=wire.question_number(self._state.round, client.partition, kinds),
            rates=rates,
            features=self._network.digest if new else "",
            samples=self._samples,
        )

    def _rates(self, rate: Fraction) -> tuple[Fraction, ...]:
        if policy_named(self._config.policy).single_weights:
            return (Fraction(1),)
        return widths_within(self._layout, self._config, rate)

    def messages(self) -> Iterator[Message]:
        """Yield each client's question, made only when it is sent."""
        packer = Packer(self._state.ema, self._config, self._state.round)
        for client in sorted(self._clients, key=lambda each: (each.rate, each.partition)):
            question = self._question(client)
            assert question is not None, "the others are not among the clients"
            task = None
            if question.rates:
                task = packer.pack(submodel_of_rate(self._layout, question.rates[0])).content
            content = wire.pack_evaluation(question, task)
            wire.address_task(content, client.partition)
            wire.name_classes(content, self._classes)
            message = Message(
                content,
                client.node,
                MessageType.EVALUATE,
                group_id=str(self._state.round),
                ttl=self._config.round_timeout + GRACE,
            )
            self._findings.bytes += wire.payload_bytes(content)
            self._open.append(Asked(client=client, question=question, header=message.metadata))
            yield message

    def collect(self, replies: Iterable[Message]) -> Findings:
        """Take answers in until no more come, and return what they say."""
        for reply in replies:
            if reply.has_content():
                self._findings.bytes += wire.payload_bytes(reply.content)
            asked = self._claimed(reply)
            if asked is None:
                continue
            partition = asked.client.partition
            try:
                self._findings.answers[partition] = self._read(reply, asked)
            except WireError as error:
                self._findings.failures[partition] = str(error)
        for asked in self._open:
            self._findings.failures[asked.client.partition] = "no answer"
        for partition, reason in sorted(self._findings.failures.items()):
            log.warning(
                "round %d: no findings of client %d: %s", self._state.round, partition, reason
            )
        return self._findings

    def _claimed(self, reply: Message) -> Asked | None:
        """Return the question that a reply answers, which is then closed; None if there is none.

        Errors are taken from anybody, because the grid reports them in a lost node's stead.
        """
        number = reply.metadata.reply_to_message_id
        for asked in self._open:
            if number and asked.header.message_id == number:
                if reply.has_content() and reply.metadata.src_node_id != asked.client.node:
                    return None
                self._open.remove(asked)
                return asked
        return None

    def _read(self, reply: Message, asked: Asked) -> Answer:
        if reply.has_error():
            reason = (reply.error.reason or "no reason given").strip().splitlines()[-1]
            raise WireError(shorten(reason, 300, placeholder=" …"))
        return wire.unpack_answer(
            reply.content,
            asked.question,
            bound=self._bound,
            examples=asked.client.examples,
            sets=self._sets,
        )
