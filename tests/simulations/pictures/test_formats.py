"""What figures are written as."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from common.errors import UserError
from simulations.pictures.style import save_figure


@pytest.mark.parametrize(
    ("suffix", "begins"),
    [(".png", b"\x89PNG"), (".PDF", b"%PDF"), (".svg", b"<?xml"), (".jpg", b"\xff\xd8")],
)
def test_the_suffix_decides_a_figure_s_format(suffix: str, begins: bytes, tmp_path: Path) -> None:
    figure = Figure(figsize=(1, 1))
    figure.suptitle("名前")  # of which the font has nothing, and of which nobody need be told
    path = save_figure(figure, tmp_path / f"x{suffix}")
    assert path.read_bytes().startswith(begins)


def test_a_figure_s_format_that_we_do_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x.gif ends in none of .png"):
        save_figure(Figure(), tmp_path / "x.gif")
    assert not list(tmp_path.iterdir())
