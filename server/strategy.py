"""`CoverageAvg`: rounds of heterogeneously pruned training as a Flower strategy.

This class is glue: a round is an `Attempt`, or several, and moves the state on by `advance`. It is
used with Flower's own `Strategy.start`.
"""

import logging
import time
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from jaxtyping import UInt8

from common.config import RunConfig
from common.submodels import Layout
from server.attempt import Attempt
from server.coverage import Coverage
from server.evaluation.pooled import pooled_network
from server.fleet import Overdue, Roster
from server.privacy import Ledger
from server.record.findings import Findings
from server.record.report import RoundReport
from server.replay import Replayer
from server.state import ServerState, advance
from server.survey import Survey

log = logging.getLogger("flwr")


class NoUsableReplyError(RuntimeError):
    """Too few clients returned an update; to go on would pass the old model off as trained."""


class CoverageAvg(Strategy):
    """Average each coordinate over the clients that were assigned it and replied.

    Args:
        config: The run's configuration.
        layout: The full model's layout.
        roster: Who the clients are; followed from round to round.
        state: Where to start: fresh, or a checkpoint's.
        ledger: With privacy, the run's secret randomness and its releases.
        replayer: Where widths teach each other, draws what by.

    `Strategy.start` counts rounds from 1; a resumed run's rounds go on from ``state.round``. The
    weights are in `state`: the record of arrays that Flower passes around stays empty, as a copy of
    the model would be for nobody.

    Attributes:
        state: The state after the last complete round.
        report: What happened in that round.
        coverage: Who trained what in it.
    """

    def __init__(
        self,
        config: RunConfig,
        layout: Layout,
        roster: Roster,
        state: ServerState,
        ledger: Ledger | None = None,
        replayer: Replayer | None = None,
    ) -> None:
        if config.privacy.on != (ledger is not None):
            raise ValueError("a run has a ledger if and only if it is private")
        self.config = config
        self.layout = layout
        self.roster = roster
        self.state = state
        self.ledger = ledger
        self.replayer = replayer
        self.report = RoundReport()
        self.coverage = Coverage(layout, [], np.zeros((0, 3)))
        self._overdue = Overdue()
        self._attempt: Attempt | None = None
        self._network = pooled_network(config, roster.image_shape) if config.surveyed else None
        self._survey: Survey | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Begin a round, and return its tasks, each made only when it is sent."""
        self._attempt = self._begin(RoundReport(), grid)
        return self._attempt.messages()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take replies in as they arrive, and move the state on by what they amount to.

        Raises:
            NoUsableReplyError: Too few clients returned a usable update, in all attempts.
        """
        attempt = self._complete(replies)
        round = attempt.finish()
        started = time.perf_counter()
        self.state = advance(self.state, round, self.layout, self.config)
        attempt.report.aggregated(time.perf_counter() - started)
        self.report, self.coverage = attempt.report, round.aggregate.coverage
        return None, None

    def _complete(self, replies: Iterable[Message]) -> Attempt:
        """Attempt a round until enough clients have replied, and return the last attempt.

        Flower asks for the tasks of a round once and then hands over the replies, so the first
        attempt has been sent when it comes here, and there is no other place than this to send
        another. All replies go through `aggregate_train`, where wrappers of a strategy see them.
        """
        attempt, self._attempt = self._attempt, None  # which frees one that is given up
        assert attempt is not None, "Flower configures a round before it aggregates"
        while not attempt.collect(replies):
            if attempt.report.retries == self.config.round_retries:
                raise NoUsableReplyError(attempt.complaint())
            log.warning("%s; trying again", attempt.complaint())
            attempt = self._begin(attempt.report.another(), attempt.grid)
            replies = attempt.grid.send_and_receive(
                attempt.messages(), timeout=self.config.round_timeout
            )
        return attempt

    def _begin(self, report: RoundReport, grid: Grid) -> Attempt:
        return Attempt(
            config=self.config,
            layout=self.layout,
            state=self.state,
            roster=self.roster,
            overdue=self._overdue,
            report=report,
            grid=grid,
            ledger=self.ledger,
            replayer=self.replayer,
        )

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask clients what they find on their own images, where it is they who judge.

        Losses are asked of those who took part in the round, moments of those who have not given
        theirs yet.
        """
        self._survey = None
        if self._network is not None and self.config.evaluates(self.state.round):
            self._survey = self.survey(judging=self.report.clients.keys())
        return self._survey.messages() if self._survey else []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Take in what the clients found."""
        survey, self._survey = self._survey, None
        if survey is not None:
            self._found(survey.collect(replies))
        return None

    def meet(self, grid: Grid) -> None:
        """Ask everybody who is there for moments of their images, before anything is scored."""
        self._found(self._asked(self.survey(), grid))

    def judged(self, grid: Grid, samples: UInt8[np.ndarray, "N C H W"]) -> Findings:
        """Let everybody who is there judge the last weights and what they sample."""
        everybody = {client.partition for client in self.roster.fleet()}
        return self._asked(self.survey(everybody, samples), grid)

    def survey(
        self,
        judging: Container[int] = (),
        samples: UInt8[np.ndarray, "N C H W"] | None = None,
    ) -> Survey:
        """Return questions to everybody who is there and not at work on an earlier round."""
        assert self._network is not None, "only where clients judge"
        busy = self._overdue.busy()
        return Survey(
            config=self.config,
            layout=self.layout,
            state=self.state,
            clients=[
                client
                for client in self.roster.fleet()
                if client.present and client.partition not in busy
            ],
            network=self._network,
            judging=judging,
            samples=samples,
            classes=self.roster.classes.names,
        )

    def _asked(self, survey: Survey, grid: Grid) -> Findings:
        timeout = self.config.round_timeout
        return survey.collect(grid.send_and_receive(survey.messages(), timeout=timeout))

    def _found(self, findings: Findings) -> None:
        self.state = replace(self.state, reference=findings.reference(self.state.reference))
        self.report.findings = findings

    def summary(self) -> None:
        """Log the fleet and the policy."""
        rates = Counter(str(client.rate) for client in self.roster.fleet())
        fleet = ", ".join(f"{count} at rate {rate}" for rate, count in rates.items())
        log.info("CoverageAvg: %s; policy %s", fleet, self.config.policy)
