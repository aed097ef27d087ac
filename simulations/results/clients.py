"""Who a run serves: every client's images, rounds, failures, losses and bytes."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from common.errors import UserError
from simulations.archive.record import RunRecord


@dataclass(kw_only=True)
class ClientSummary:
    """What the history says of a client.

    Attributes:
        partition: Its number.
        device: What its owner calls it; may be empty.
        images: Images it trains on, None where nobody has answered for it.
        rate: The rate it was last given; empty before it was asked.
        asked: Rounds in which it was sent a task.
        replied: Rounds whose average has its update.
        failures: Why it has no update in a round, and how often.
        loss: Of its training, in the last of these rounds.
        held_out: By rate the last loss on images that it holds out.
        bytes_down: Sent to it for training.
        bytes_up: Received from it.
    """

    partition: str
    device: str = ""
    images: int | None = None
    rate: str = ""
    asked: int = 0
    replied: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    loss: float | None = None
    held_out: dict[str, float] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0


def clients_of(run: RunRecord) -> list[ClientSummary]:
    """Return every client that a run knows, in order.

    Raises:
        UserError: The history or `fleet.json` cannot be read, or is that of an earlier version.
    """
    fleet = [row for row in _fleet(run) if "partition" in row]
    clients = {each["partition"]: each for each in map(_known, fleet)}
    found = {
        partition: ClientSummary(partition=partition, device=row["device"], images=row["examples"])
        for partition, row in clients.items()
    }
    for row in run.rows:
        if "by_client" not in row:
            raise UserError(f"{run.path}: its history, of an earlier version, is not by client")
        for partition, did in row["by_client"].items():
            client = found.setdefault(partition, ClientSummary(partition=partition))
            client.asked += 1
            client.bytes_down += did["bytes_down"]
            client.bytes_up += did["bytes_up"]
            client.rate = did.get("rate", client.rate)
            if "loss" in did:
                client.replied += 1
                client.loss = did["loss"]
        for partition, reason in row["failures"].items():
            found.setdefault(partition, ClientSummary(partition=partition)).failures[reason] += 1
        for partition, losses in row["held_out_by_client"].items():
            found[partition].held_out |= losses
    return sorted(found.values(), key=lambda client: int(client.partition))


def refused_by(run: RunRecord) -> list[str]:
    """Return a line for each device that a run has not taken, with the reason.

    Raises:
        UserError: `fleet.json` cannot be read.
    """
    return [
        f"refused: {row.get('device') or 'a device without a name'}: {row['refused']}"
        for row in _fleet(run)
        if "refused" in row
    ]


def table_of(clients: list[ClientSummary]) -> Table:
    """Lay clients out to be read."""
    judged = any(client.held_out for client in clients)
    table = Table(title="who is served", title_justify="left")
    for name in ("client", "device"):
        table.add_column(name)
    numbers = ["images", "rate", "rounds", "loss", *(["held-out loss"] if judged else [])]
    for name in (*numbers, "MiB down", "MiB up"):
        table.add_column(name, justify="right")
    table.add_column("failures")
    for client in clients:
        losses = [_number(client.loss)]
        if judged:
            losses.append(_number(client.held_out.get(client.rate)))
        table.add_row(
            client.partition,
            client.device,
            "" if client.images is None else str(client.images),
            client.rate,
            f"{client.replied} of {client.asked}",
            *losses,
            f"{client.bytes_down / 2**20:.3g}",
            f"{client.bytes_up / 2**20:.3g}",
            "; ".join(f"{count}x {reason}" for reason, count in client.failures.most_common(3)),
        )
    return table


def _fleet(run: RunRecord) -> list[dict[str, Any]]:
    path = run.path / "fleet.json"
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _known(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "partition": str(row.get("partition")),
        "device": row.get("device", ""),
        "examples": row.get("examples"),
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
