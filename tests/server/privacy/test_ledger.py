"""The key, what is drawn from it, and releases that are made once."""

import stat
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest

from common.errors import UserError
from server.privacy.ledger import KEPT, Ledger, Noise

THETA = np.arange(4, dtype=np.float32)


def test_the_key_is_secret_and_stays_the_same(tmp_path: Path) -> None:
    first = Ledger(tmp_path, resumed=False).page(1).lot(0)
    path = tmp_path / "privacy" / "key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(path.read_bytes()) == 32
    assert Ledger(tmp_path, resumed=True).page(1).lot(0) == first
    assert Ledger(tmp_path / "other", resumed=False).page(1).lot(0) != first
    assert path.read_bytes().hex() not in repr(Ledger(tmp_path, resumed=True).page(1))


def test_a_run_does_not_go_on_without_its_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"privacy/key: missing.*start a new run"):
        Ledger(tmp_path, resumed=True)
    (tmp_path / "privacy").mkdir()
    (tmp_path / "privacy" / "key").write_bytes(b"short")
    with pytest.raises(UserError, match="has 5 bytes, and a key has 32"):
        Ledger(tmp_path, resumed=True)


def test_lots_are_uniform_and_of_one_client_and_round_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, resumed=False)
    lots = np.array([[ledger.page(r).lot(p) for p in range(60)] for r in range(1, 61)])
    assert len(np.unique(lots)) == lots.size
    assert lots.min() >= 0
    assert lots.max() < 1
    assert kstest(lots.ravel(), "uniform").pvalue > 1e-4


def test_noise_is_normal_and_the_same_in_any_portions() -> None:
    whole = Noise(b"k" * 32).next(200_000)
    source = Noise(b"k" * 32)
    parts = [source.next(count) for count in (1, 3, 99_996, 100_000)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert kstest(whole, "norm").pvalue > 1e-4
    assert np.isfinite(whole).all()
    assert not np.isin(Noise(b"l" * 32).next(1000), whole).any()


def test_the_most_extreme_words_of_the_stream_are_numbers() -> None:
    for byte, expected in ((b"\x00", -8.21), (b"\xff", 8.21)):
        noise = Noise(b"k" * 32)

        class Constant:
            def update(self, zeros: bytes, byte: bytes = byte) -> bytes:
                return byte * len(zeros)

        noise._stream = Constant()  # type: ignore[assignment]
        assert noise.next(1)[0] == pytest.approx(expected, abs=0.01)


def test_a_round_releases_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, resumed=False)
    assert ledger.page(1).once(THETA, lambda: THETA + 1).tolist() == [1, 2, 3, 4]
    assert ledger.page(1).once(THETA, lambda: THETA + 2).tolist() == [1, 2, 3, 4]
    with pytest.raises(UserError, match=r"round-0001.safetensors: was released by .* other wei"):
        ledger.page(1).once(THETA + 1, lambda: THETA)


def test_releases_go_when_no_run_can_go_back_to_them(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, resumed=False)
    for round in range(1, KEPT + 3):
        ledger.page(round).once(THETA, lambda: THETA)
    names = sorted(path.name for path in (tmp_path / "privacy").glob("round-*"))
    assert names == [f"round-{round:04d}.safetensors" for round in range(3, KEPT + 3)]
    with pytest.raises(UserError, match="round 2 was released once and is no longer kept"):
        ledger.page(2).once(THETA, lambda: THETA)


def test_a_damaged_release_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, resumed=False)
    ledger.page(1).once(THETA, lambda: THETA)
    (tmp_path / "privacy" / "round-0001.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"round-0001.safetensors: not a readable release"):
        ledger.page(1).once(THETA, lambda: THETA)
