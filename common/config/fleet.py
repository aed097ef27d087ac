"""The fleet as a text: rates times counts, the codes of Zhou et al. (2023), or whoever comes."""

import re
from fractions import Fraction
from functools import cache

from common.errors import UserError

AUTO = "auto"
"""The word by which a fleet says that whoever comes takes part."""

MOST_CLIENTS = 100_000
"""More would fill the server's memory before the run begins."""

CODE_RATES = {code: Fraction(4 if code == 1 else 3 if code < 5 else 2, 4) for code in range(1, 8)}
"""The model rate of each of Zhou's client types."""


@cache
def parse_fleet(text: str) -> tuple[Fraction, ...]:
    """Return the model rate of each client, strongest class first as written.

    Args:
        text: Rates times counts, such as ``"1x2 1/2x3 1/4x3"``; a bare rate counts once. Or a
            fleet code, see `fleet_codes`.

    Raises:
        UserError: The text does not parse, a rate is not in (0, 1], or there are more than
            `MOST_CLIENTS`.
    """
    rates = [CODE_RATES[code] for code in fleet_codes(text)]
    if rates:
        return tuple(rates)
    for word in text.split():
        match = re.fullmatch(r"(\d+(?:/\d+|\.\d+)?)(?:x(\d+))?", word)
        if match is None or match[1].endswith("/0"):
            raise UserError(
                f"fleet: '{word}' is not a rate times a count; write for example '1x2 1/2x3 1/4x3'"
            )
        rate, count = Fraction(match[1]), int(match[2] or 1)
        if not 0 < rate <= 1 or count < 1:
            raise UserError(f"fleet: '{word}' needs a rate in (0, 1] and a count of at least 1")
        if len(rates) + count > MOST_CLIENTS:
            raise UserError(
                f"fleet: '{word}' is too many; a fleet has at most {MOST_CLIENTS} clients"
            )
        rates += [rate] * count
    if not rates:
        raise UserError("fleet: empty; write for example '1x2 1/2x3 1/4x3'")
    return tuple(rates)


def fleet_codes(text: str) -> tuple[int, ...]:
    """Return each client's type in a fleet written as Zhou et al. (2023) do, else nothing.

    Args:
        text: A digit for each of ten clients: 1 holds the full model, 2 to 4 three quarters, 5 to 7
            one half. `server.policies.quarters` says which quarters.

    Raises:
        UserError: The code does not have ten digits.
    """
    if not re.fullmatch("[1-7]{2,}", text.strip()):
        return ()
    codes = tuple(map(int, text.strip()))
    if len(codes) != 10:
        raise UserError(
            f"fleet: the code '{text.strip()}' has {len(codes)} digits; it needs ten from 1 to 7, "
            "one for each client, such as 1111223344"
        )
    return codes


@cache
def fleet_menu(text: str) -> tuple[Fraction, ...] | None:
    """Return the rates that an ``auto`` fleet names, none for all halves; None for another fleet.

    Args:
        text: ``"auto"``, or ``"auto 1 1/2 1/4"``: the widths that whoever comes may have.

    Raises:
        UserError: What follows the word is not rates in (0, 1].
    """
    first, *words = text.split() or [""]
    if first != AUTO:
        return None
    rates = set()
    for word in words:
        match = re.fullmatch(r"[0-9]{1,6}(/[1-9][0-9]{0,5}|\.[0-9]{1,6})?", word)
        if match is None or not 0 < Fraction(word) <= 1:
            raise UserError(
                f"fleet: '{word}' is not a rate in (0, 1]; after auto stand the widths that "
                "devices may have, without counts, such as 'auto 1 1/2 1/4'"
            )
        rates.add(Fraction(word))
    return tuple(sorted(rates))


@cache
def fleet_widths(text: str, atom: int) -> tuple[Fraction, ...]:
    """Return the different rates that clients of a fleet may have, from narrow to wide.

    Args:
        text: Any fleet. A bare ``"auto"`` is 1 and its halves, as far as an atom can be halved.
        atom: Channels of an atom of the model.

    Raises:
        UserError: The text does not parse.
    """
    menu = fleet_menu(text)
    if menu is None:
        return tuple(sorted(set(parse_fleet(text))))
    if menu:
        return menu
    halves = [Fraction(1)]
    while int(halves[0] * atom) % 2 == 0:
        halves.insert(0, halves[0] / 2)
    return tuple(halves)
