"""Policies of other packages: how they are found, and what they are held to."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

import numpy as np

from common.errors import UserError
from server.policies.request import Positions, Request, StructuredPolicy

GROUP = "scorequilt.policies"
"""The entry points by which an installed package offers its policies."""


def foreign_policy(name: str) -> StructuredPolicy | None:
    """Return the policy at a path ``package.module:function`` or of an entry point, if any.

    Raises:
        UserError: It cannot be imported or called; the line says why.
    """
    if ":" in name:
        found = [EntryPoint(name, name, GROUP)]
    else:
        found = list(entry_points(group=GROUP, name=name))
    if not found:
        return None
    try:
        policy = found[0].load()
    except Exception as error:  # whatever another package does when it is imported
        raise UserError(
            f"policy: '{name}' cannot be loaded ({type(error).__name__}: {error}); name an "
            "importable function as package.module:function"
        ) from error
    if not callable(policy):
        raise UserError(f"policy: '{name}' is a {type(policy).__name__}, not a function")
    return _checked(name, policy)


def offered() -> list[str]:
    """Return the names of the policies that installed packages offer."""
    return sorted(entry_points(group=GROUP).names)


def _checked(name: str, policy: StructuredPolicy) -> StructuredPolicy:
    """Return the policy with everything it answers checked, so that its faults bear its name."""

    def checked(request: Request) -> Positions:
        try:
            positions = policy(request)
        except Exception as error:  # whatever another package does when it is called
            raise _fault(name, request, f"raised {type(error).__name__}: {error}") from error
        if not isinstance(positions, Mapping) or not positions:
            raise _fault(name, request, f"returned {_kind(positions)}, not positions for each axis")
        known = request.layout.axes
        if odd := sorted(set(known) ^ set(positions)):
            fault = "left out" if odd[0] in known else "named an unknown"
            raise _fault(name, request, f"{fault} axis {odd[0]}")
        for axis in known:
            if wrong := _wrong(positions[axis], request, known[axis].size):
                raise _fault(name, request, f"axis {axis}: {wrong}")
        counts = {axis: each.shape[-1] for axis, each in positions.items()}
        if len(set(counts.values())) > 1:
            least, most = (choose(counts, key=lambda axis: counts[axis]) for choose in (min, max))
            raise _fault(
                name,
                request,
                f"axis {least} keeps {counts[least]} of an atom, axis {most} {counts[most]}; all "
                "atoms need equally many",
            )
        return positions

    return checked


def _wrong(positions: object, request: Request, size: int) -> str | None:
    """Say what is wrong with one axis' positions, if anything is."""
    atom, k = request.layout.atom, request.k
    if not isinstance(positions, np.ndarray) or not np.issubdtype(positions.dtype, np.integer):
        return f"{_kind(positions)}, not an array of whole numbers"
    if positions.ndim not in (1, 2) or positions.shape[:-1] not in ((), (size // atom,)):
        return f"shape {positions.shape}, not (k,) or ({size // atom}, k)"
    if not 1 <= positions.shape[-1] <= k:
        return f"keeps {positions.shape[-1]} channels of an atom; this client may keep 1 to {k}"
    if positions.min() < 0 or positions.max() >= atom:
        return f"positions {positions.min()} … {positions.max()} are not within 0 … {atom - 1}"
    if (np.diff(np.sort(positions, axis=-1)) == 0).any():
        return "keeps a position twice"
    return None


def _fault(name: str, request: Request, what: str) -> UserError:
    return UserError(
        f"policy: '{name}' {what} (asked for {request.k} of {request.layout.atom} channels of "
        f"an atom, round {request.round}, client {request.index} of its rate)"
    )


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return "nothing" if value is None else f"a {type(value).__name__}"
