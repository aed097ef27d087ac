"""Policies of other packages: how they are found, and what they are held to."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

import numpy as np

from common.errors import UserError
from server.policies.request import Mask, Policy, Positions, Request

GROUP = "scorequilt.policies"
"""The entry points by which an installed package offers its policies."""


def foreign_policy(name: str) -> Policy | None:
    """Return the policy at a path ``package.module:name`` or of an entry point, if any.

    What stands there is a `Policy`, or a function that chooses channels and may look at weights.

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
        loaded = found[0].load()
    except Exception as error:  # whatever another package does when it is imported
        raise UserError(
            f"policy: '{name}' cannot be loaded ({type(error).__name__}: {error}); name an "
            "importable function or Policy as package.module:name"
        ) from error
    if not callable(loaded):
        raise UserError(f"policy: '{name}' is a {type(loaded).__name__}, not a function or Policy")
    policy = loaded if isinstance(loaded, Policy) else Policy(loaded, by_weights=True)
    check = _check_mask if policy.single_weights else _check_positions
    return replace(policy, choose=_checked(name, policy.choose, check))


def offered() -> list[str]:
    """Return the names of the policies that installed packages offer."""
    return sorted(entry_points(group=GROUP).names)


def _checked(
    name: str,
    choose: Callable[[Request], object],
    check: Callable[[object, Request], Positions | Mask],
) -> Callable[[Request], Positions | Mask]:
    """Return the function with everything it answers checked, so that its faults bear its name."""

    def checked(request: Request) -> Positions | Mask:
        try:
            choice = choose(request)
        except Exception as error:  # whatever another package does when it is called
            raise _fault(name, request, f"raised {type(error).__name__}: {error}") from error
        try:
            return check(choice, request)
        except ValueError as error:
            raise _fault(name, request, str(error)) from None

    return checked


def _check_positions(choice: object, request: Request) -> Positions:
    """Return positions of channels if that is what a policy chose.

    Raises:
        ValueError: It is not; the line says what is wrong.
    """
    if not isinstance(choice, Mapping) or not choice:
        raise ValueError(f"returned {_kind(choice)}, not positions for each axis")
    known = request.layout.axes
    if odd := sorted(set(known) ^ set(choice)):
        fault = "left out" if odd[0] in known else "named an unknown"
        raise ValueError(f"{fault} axis {odd[0]}")
    for axis in known:
        if wrong := _wrong(choice[axis], request, known[axis].size):
            raise ValueError(f"axis {axis}: {wrong}")
    counts = {axis: each.shape[-1] for axis, each in choice.items()}
    if len(set(counts.values())) > 1:
        least, most = (pick(counts, key=lambda axis: counts[axis]) for pick in (min, max))
        raise ValueError(
            f"axis {least} keeps {counts[least]} of an atom, axis {most} {counts[most]}; all atoms "
            "need equally many"
        )
    return choice


def _check_mask(choice: object, request: Request) -> Mask:
    """Return a mask of single weights if that is what a policy chose.

    Raises:
        ValueError: It is not; the line says what is wrong.
    """
    size = request.layout.size
    if not isinstance(choice, np.ndarray) or choice.dtype != bool or choice.shape != (size,):
        raise ValueError(f"returned {_kind(choice)}, not a mask of {size} truth values")
    if not choice.any():
        raise ValueError("keeps no weight")
    return choice


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
        f"an atom, stretch {request.stretch}, client {request.index} of its rate)"
    )


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return "nothing" if value is None else f"a {type(value).__name__}"
