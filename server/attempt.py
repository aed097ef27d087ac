"""One attempt at a round: whom it asks for what, and what has come back.

It is made, sends its tasks (`messages`), takes replies in (`collect`) and, where these are enough,
says what they amount to (`finish`). Trying again is making another one.
"""

import gc
import logging
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from textwrap import shorten

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common import wire
from common.config import RunConfig
from common.submodels import Layout
from common.wire import WireError
from server.coverage import mask_changes
from server.fleet import (
    GRACE,
    OpenTasks,
    Overdue,
    Packer,
    Roster,
    Task,
    assignments,
    eligible,
    participants,
    required,
    seated,
    seats_after,
)
from server.privacy import Ledger
from server.record.report import RoundReport
from server.replay import Replayer
from server.state import Round, RoundInput, ServerState, room_for

log = logging.getLogger("flwr")


class Attempt:
    """One attempt at a round.

    Making one waits until enough clients are there to be asked, and takes late replies off the
    grid.

    Args:
        config: The run's configuration.
        layout: The full model's layout.
        state: The state before the round, which stays as it is.
        roster: Who the clients are; told who failed and whose memory ran out.
        overdue: The tasks of earlier attempts; those of this one that stay open join them.
        report: Where everything that happens is written down.
        grid: Where the clients are.
        ledger: With privacy, the run's secret randomness and its releases.
        replayer: Draws images for the clients of wider widths.
    """

    def __init__(
        self,
        *,
        config: RunConfig,
        layout: Layout,
        state: ServerState,
        roster: Roster,
        overdue: Overdue,
        report: RoundReport,
        grid: Grid,
        ledger: Ledger | None = None,
        replayer: Replayer | None = None,
    ) -> None:
        self.config = config
        self.layout = layout
        self.state = state
        self.roster = roster
        self.overdue = overdue
        self.report = report
        self.grid = grid
        self.round = state.round + 1
        roster.wait(grid)
        for partition, size in overdue.late(grid):
            report.received(partition, size)
            report.reject(partition, "late")
        fleet, busy = seated(roster.fleet(), state.seats), overdue.busy()
        report.begin(sum(not client.present for client in fleet), roster.take_events())
        page = ledger.page(self.round) if ledger else None
        begins = roster.enough() or not config.auto
        lot = page.lot if page else None
        clients = participants(fleet, config, self.round, lot) if begins else []
        clients = [client for client in clients if client.partition not in busy] or clients
        # With privacy who might have been drawn counts as well: who was is not to be seen.
        counted = eligible(fleet, config) if page else clients
        everybody = assignments(layout, config, counted, self.round, state.looked_at)
        drawn = {client.partition for client in clients}
        chosen = [each for each in everybody if each.client.partition in drawn]
        self.asked = [each for each in chosen if each.fits]
        for each in chosen:
            if not each.fits:
                partition = each.client.partition
                report.reject(partition, "too large", "accepts no submodel so large")
        self._replays = replayer.draw(state, fleet) if replayer else {}
        report.teach(self._replays, layout.atom)
        self._seats = seats_after(config, self.round, fleet, state.seats)
        self.needed = required(config, len(self.asked)) if begins else config.min_clients
        self.tasks = OpenTasks()
        counted_in = everybody if page else self.asked
        self._input = RoundInput(layout, config, state.theta, state.norms, counted_in, page)
        self._deadline = time.monotonic() + config.round_timeout

    def messages(self) -> Iterator[Message]:
        """Yield each client's task, made only when it is sent: one at a time is in memory."""
        packer = Packer(self.state.theta, self.config, self.round)
        for assignment in self.asked:
            replay = self._replays.get(assignment.client.rate)
            spec, content, error = packer.pack(assignment.submodel, replay)
            if self.config.auto:
                wire.address_task(content, assignment.client.partition)
            wire.name_classes(content, self.roster.classes.names)
            # A client that is away must not train on it when it comes back much later.
            message = Message(
                content,
                assignment.client.node,
                MessageType.TRAIN,
                group_id=str(self.round),
                ttl=self.config.round_timeout + GRACE,
            )
            self.tasks.add(
                Task(
                    assignment=assignment,
                    spec=spec,
                    header=message.metadata,
                    deadline=self._deadline,
                )
            )
            client, submodel = assignment.client, assignment.submodel
            size = wire.payload_bytes(content)
            self.report.sent(client.partition, submodel.rate, submodel.density, error, size)
            yield message
            # Flower's records refer to themselves: only the collector frees what they carry, and it
            # counts objects, not bytes. What is this young it finds in no time.
            del message, content
            gc.collect(1)

    def collect(self, replies: Iterable[Message]) -> bool:
        """Take replies in until there are enough or no more come, and say whether they are enough.

        The attempt is over then: tasks that are still open are overdue.
        """
        closed = False
        may_close = self.config.min_replies > 0 and self.config.close_early
        for reply in replies:
            started = time.perf_counter()
            self._take(reply)
            del reply  # see `messages`
            gc.collect(1)
            self.report.aggregated(time.perf_counter() - started)
            closed = may_close and self.report.replied >= self.needed
            if closed and self.tasks:
                break
        silent = self.tasks.close()
        self.overdue.add(silent, given_up=not closed)
        for task in silent:
            self.report.reject(task.partition, "no reply", "no reply")
        failures = self.report.failures
        asked = {each.client.partition for each in self.asked}
        self.roster.heard(asked, asked & failures.keys())
        for partition, reason in sorted(failures.items()):
            log.warning("round %d: client %d failed: %s", self.round, partition, reason)
        return self.report.replied >= self.needed

    def finish(self) -> Round:
        """Return the round that the replies amount to, and complete the report."""
        started = time.perf_counter()
        round = self._input.finish(self.roster.limits, self._seats)
        before = room_for(self.state.masks, round.partitions)[round.partitions]
        change = mask_changes(self.layout, before, round.held())
        self.report.aggregated(time.perf_counter() - started)
        self.report.finish(round.norms, round.limits, change)
        return round

    def complaint(self) -> str:
        """Say in one line why the round is not complete."""
        return self.report.complaint(self.round, self.needed)

    def _take(self, reply: Message) -> None:
        """Check one reply and take it in, or note why not."""
        partition, task = self.tasks.claim(reply)
        if reply.has_content():
            self.report.received(partition, wire.payload_bytes(reply.content))
        if task is None:
            self.report.reject(partition, "unasked")
        elif reply.has_error():
            # Flower sends whole tracebacks; what happened is in the last line.
            reason = (reply.error.reason or "no reason given").strip().splitlines()[-1]
            self.report.reject(partition, "error", shorten(reason, 200, placeholder=" …"))
        else:
            self._use(reply, task)

    def _use(self, reply: Message, task: Task) -> None:
        """Take in what a task's client has sent, or note why not."""
        assignment = task.assignment
        client, submodel = assignment.client, assignment.submodel
        try:
            answer = wire.unpack_reply(reply.content, task.spec, submodel)
            values = wire.trained(answer, task.spec, submodel, self.state.theta)
            self._input.add(assignment, values, answer.images)
        except wire.TooLargeError as error:
            limit = Fraction(error.k, self.layout.atom)
            self.roster.lower(client.partition, limit)
            text = f"out of memory at rate {client.rate}, can do {limit}"
            self.report.reject(client.partition, error.reason, text)
        except WireError as error:
            self.report.reject(client.partition, error.reason, f"refused: {error}")
        except ValueError as error:
            self.report.reject(client.partition, "not-finite", f"refused: {error}")
        else:
            self.report.used(client.partition, answer.loss, assignment.weight, answer.seconds)
