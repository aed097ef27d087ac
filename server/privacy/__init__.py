"""Client-level differential privacy: what is noised, what it costs, and what is told at all."""

from server.privacy.accountant import epsilon_after, statement
from server.privacy.fold import PrivateFold
from server.privacy.ledger import Ledger, Page
from server.privacy.release import released

__all__ = ["Ledger", "Page", "PrivateFold", "epsilon_after", "released", "statement"]
