"""Arithmetic in the finite field GF(q), q a prime power, as lookup tables."""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True, eq=False)
class Field:
    """Addition and multiplication tables over the elements 0 … order-1."""

    order: int
    add: Int64[np.ndarray, "q q"]
    multiply: Int64[np.ndarray, "q q"]


@cache
def galois_field(order: int) -> Field | None:
    """Return GF(order), or None where no field of that order exists.

    Elements are polynomials over the prime field, read as base-p digits; products are reduced by
    the first monic polynomial that makes every non-zero element invertible.
    """
    prime = next((p for p in range(2, order + 1) if order % p == 0), None)
    if prime is None:
        return None
    degree = next(m for m in range(1, order) if prime**m >= order)
    if prime**degree != order:
        return None
    digits = np.array([[x // prime**i % prime for i in range(degree)] for x in range(order)])
    place = prime ** np.arange(degree)
    add = (digits[:, None] + digits[None, :]) % prime @ place
    for modulus in product(range(prime), repeat=degree):
        multiply = _products(digits, np.array(modulus), prime, place)
        if all(len(set(row)) == order for row in multiply[1:].tolist()):
            return Field(order, add, multiply)
    raise AssertionError("every prime power has an irreducible polynomial")


def _products(digits: np.ndarray, modulus: np.ndarray, prime: int, place: np.ndarray) -> np.ndarray:
    """Multiply all pairs of polynomials modulo x^degree + modulus."""
    order, degree = digits.shape
    table = np.zeros((order, order), dtype=np.int64)
    for a, b in product(range(order), repeat=2):
        remainder = np.convolve(digits[a], digits[b])
        for power in range(len(remainder) - 1, degree - 1, -1):
            remainder[power - degree : power] -= remainder[power] * modulus
        table[a, b] = remainder[:degree] % prime @ place
    return table
