"""What people have and cannot be trained on: one line, exit code 2, and nothing half written."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from common.data.own import read_own
from simulations import cli


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "here" / "pics").mkdir()
    return tmp_path / "here" / "pics"


def _run(data: str, *more: str) -> Any:
    words = ["run", "--set", f"data={data}", "--set", "image-shape=3x8x8", "--set", "fleet=1x1"]
    return CliRunner().invoke(cli.app, [*words, *(w for each in more for w in ("--set", each))])


def _fill(folder: Path, count: int, **options: Any) -> None:
    for i in range(count):
        Image.new("RGB", (9, 9), (i, 0, 0)).save(folder / f"{i}.png", **options)


def _broken(folder: Path) -> None:
    _fill(folder, 3)
    for each in folder.iterdir():
        each.write_bytes(each.read_bytes()[:40])


def _huge(folder: Path) -> None:
    Image.new("1", (20000, 20000)).save(folder / "a.png")


def _nothing(_: Path) -> None:
    pass


Case = tuple[Callable[[Path], Any], str, str]
CASES: dict[str, Case] = {
    "empty": (_nothing, "folder:pics", r"no picture is in the folder \S+/here/pics$"),
    "one picture": (lambda f: _fill(f, 1), "folder:pics", "no class of 5 images"),
    "too few": (lambda f: _fill(f, 9), "folder:pics", "has 8 images to train on and 1 held out"),
    "all broken": (_broken, "folder:pics", r"none of the 3 pictures in .* \(0\.png: cannot be"),
    "too many pixels": (_huge, "folder:pics", r"a\.png: .* more than 178 million pixels"),
    "no such folder": (_nothing, "folder:none", r"there is no folder \S+/here/none"),
    "nothing named": (_nothing, "folder:", r"folder: names nothing; write folder:PATH"),
    "a file": (lambda f: _fill(f, 1), "folder:pics/0.png", r"pics/0\.png is a file; name the fol"),
    "a folder as npz": (_nothing, "npz:pics", r"pics is no \.npz file"),
    "a picture as npz": (
        lambda f: _fill(f, 1),
        "npz:pics/0.png",
        r"0\.png is no \.npz file, which is a zip",
    ),
    "no such npz": (_nothing, "npz:none.npz", r"there is no file \S+/here/none\.npz$"),
    "a picture as idx": (lambda f: _fill(f, 1), "idx:pics/0.png", r"0\.png is no IDX file"),
    "no idx files": (_nothing, "idx:pics", "holds no train-images-idx3-ubyte"),
    "no saved set": (_nothing, "hfdisk:pics", "hfdisk:.*pics cannot be had"),
    "a name too long": (_nothing, "folder:" + "x" * 300, "cannot be opened"),
    "only text": (lambda f: (f / "a.txt").write_text("x"), "folder:pics", "no picture is in"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_trained_on_is_one_line_and_leaves_nothing(case: str, folder: Path) -> None:
    make, data, message = CASES[case]
    make(folder)
    before = sorted(folder.parent.rglob("*"))
    _refused(_run(data), message)
    assert sorted(folder.parent.rglob("*")) == before


def _refused(done: Any, message: str) -> None:
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    (line,) = (each for each in done.stderr.splitlines() if each.startswith("scorequilt: "))
    assert re.search(message, line), line


@pytest.mark.parametrize("locked", [".", "inner"])
def test_folders_that_may_not_be_opened_are_named(
    locked: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is played: nobody is refused anything where tests run as root."""
    (folder / "inner").mkdir()
    real = Path.iterdir

    def iterdir(path: Path) -> Any:
        if path == folder / locked:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    refused = "pics cannot be opened" if locked == "." else "1 things in it cannot be opened"
    _refused(_run("folder:pics"), refused)


def test_a_locked_sub_folder_and_a_locked_file_cost_themselves(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(folder, 3)
    (folder / "inner").mkdir()
    listed, opened = Path.iterdir, Image.open

    def iterdir(path: Path) -> Any:
        if path.name == "inner":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    def open_(path: Any) -> Any:
        if Path(path).name == "1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(Image, "open", open_)
    own = read_own(f"folder:{folder}", (3, 9, 9))
    assert own.skipped == ("1.png",)
    assert len(own.images) == 2
    assert "1 things in" in caplog.text
    assert "cannot be opened: inner" in caplog.text


NAMES = ("фото.png", "画像.png", "صورة.png", "a b\tc.png", "line\nbreak.png", "𝔞.png", "ä" * 100)


def test_names_in_any_script_are_read_and_fit_into_a_line(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i, name in enumerate(NAMES):
        Image.new("L", (3, 3), i).save(folder / name, "PNG")
    # Bytes that are no text in any encoding.
    odd = folder / b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    odd.write_bytes(b"torn")
    (folder / "torn\nalso.png").write_bytes(b"torn")
    for _ in range(2):
        own = read_own(f"folder:{folder}", (1, 3, 3))
        assert sorted(own.images[:, 0, 0, 0].tolist()) == list(range(len(NAMES)))
        assert len(own.skipped) == 2
        for name in own.skipped:
            assert name.isprintable()
            name.encode()
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_sizes_from_one_pixel_up_in_grey_and_in_colour_come_to_one_shape(folder: Path) -> None:
    sizes = [(1, 1), (1, 500), (500, 1), (2000, 3), (8, 8)]
    for i, size in enumerate(sizes):
        Image.new("L", size, 50).save(folder / f"{i}-grey.png")
        Image.new("RGB", size, (200, 0, 0)).save(folder / f"{i}-red.png")
    colour = read_own(f"folder:{folder}", (3, 8, 8)).images
    assert colour.shape == (10, 3, 8, 8)
    assert (colour[::2] == 50).all()
    assert (colour[1::2] == np.array([200, 0, 0])[:, None, None]).all()
    grey = read_own(f"folder:{folder}", (1, 8, 8)).images
    assert (grey[::2] == 50).all()
    assert (grey[1::2] == 60).all()  # 0.299 of 200


@pytest.mark.slow
def test_as_many_pixels_as_pillow_takes_are_read(folder: Path) -> None:
    Image.new("1", (13000, 13000), 1).save(folder / "a.png")
    assert (np.asarray(read_own(f"folder:{folder}", (1, 2, 2)).images) == 255).all()
