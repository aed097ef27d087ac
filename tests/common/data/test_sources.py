"""Other people's data sets: saved by Hugging Face's library, MNIST's own files, names of many."""

import gzip
import importlib
import io
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from pillow_heif import from_pillow

from common.config import PicturesConfig
from common.data import absolute_source
from common.data.datasets import load_dataset, own_images
from common.data.named import NAMED
from common.data.own import read_own
from common.errors import UserError
from tests.common.data.writers import dicom

SHAPE = (1, 4, 4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    datasets.disable_progress_bars()


def _grey(value: int, suffix: str = "PNG") -> dict[str, Any]:
    held = io.BytesIO()
    Image.new("L", (4, 4), value).save(held, suffix)
    return {"bytes": held.getvalue(), "path": None}


def _set(start: int, count: int, **more: list[Any]) -> datasets.Dataset:
    """Pictures whose grey is their number, in a column of a name of its own."""
    kinds = {"img": datasets.Image()}
    values = {"img": [_grey(start + i) for i in range(count)]}
    for name, column in more.items():
        if name == "kind":
            kinds[name] = datasets.ClassLabel(names=["plane", "car", "bird"])
        else:
            kinds[name] = datasets.Value("int64" if isinstance(column[0], int) else "string")
        values[name] = column
    return datasets.Dataset.from_dict(values, features=datasets.Features(kinds))


def _saved(tmp_path: Path, data: Any) -> str:
    data.save_to_disk(str(tmp_path / "saved"))
    return f"hfdisk:{tmp_path / 'saved'}"


def _greys(images: np.ndarray) -> list[int]:
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().astype(int).tolist()


def test_splits_and_classes_of_a_saved_set_are_its_own(tmp_path: Path) -> None:
    source = _saved(
        tmp_path,
        datasets.DatasetDict(
            train=_set(0, 4, kind=[2, 0, 2, 0]),
            test=_set(10, 2, kind=[0, 2]),
            extra=_set(20, 2, kind=[1, 1]),
        ),
    )
    own = read_own(source, SHAPE)
    assert own.classes == ("plane", "car", "bird")  # in its order, with the one that is not there
    train, test = load_dataset(source, SHAPE)
    assert (_greys(train.images), train.labels.tolist()) == ([0, 1, 2, 3], [2, 0, 2, 0])
    assert (_greys(test.images), test.labels.tolist()) == ([10, 11], [0, 2])
    assert train.num_classes == 3
    assert len(own_images(source, "digits", SHAPE)) == 4


def test_a_set_without_splits_or_classes_is_split_as_a_folder_is(tmp_path: Path) -> None:
    source = _saved(tmp_path, _set(0, 10))
    train, test = load_dataset(source, SHAPE)
    assert (_greys(test.images), train.num_classes) == ([4, 9], 1)


def test_columns_may_be_named_and_rows_without_a_class_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: dict[str, list[Any]] = {"grade": [3, 1, 1, 3], "site": ["north", "south", "", "north"]}
    source = _saved(tmp_path, _set(0, 4, **rows))
    own = read_own(source, SHAPE, PicturesConfig(label="grade"))
    assert own.classes == ("0", "1", "2", "3")
    assert own.labels.tolist() == [3, 1, 1, 3]
    assert own.columns["site"].tolist() == ["north", "south", "", "north"]
    own = read_own(source, SHAPE, PicturesConfig(label="site"))
    assert own.classes == ("north", "south")
    assert len(own.images) == 3
    assert "1 rows of hfdisk:" in caplog.text
    for key in ("label", "group"):
        with pytest.raises(UserError, match=rf"pictures.{key}: .* no column 'x' of one value; it"):
            read_own(source, SHAPE, PicturesConfig.model_validate({key: "x"}))


def test_a_damaged_picture_costs_itself_and_deep_ones_share_their_depth(tmp_path: Path) -> None:
    def deep(most: int) -> dict[str, Any]:
        held = io.BytesIO()
        Image.fromarray(np.full((4, 4), most, np.uint16)).save(held, "TIFF")
        return {"bytes": held.getvalue(), "path": None}

    features = datasets.Features({"image": datasets.Image()})
    values = [deep(4095), {"bytes": b"torn", "path": None}, deep(819)]
    source = _saved(tmp_path, datasets.Dataset.from_dict({"image": values}, features=features))
    own = read_own(source, SHAPE)
    assert own.skipped == ("train[1]",)
    assert own.images[:, 0, 0, 0].tolist() == [255, 51]


def test_pictures_in_columns_are_of_all_kinds_that_files_are(tmp_path: Path) -> None:
    dicom(tmp_path / "a", np.full((4, 4), 1023, np.uint16), 12)
    from_pillow(Image.new("RGB", (4, 4), (9, 9, 9))).save(tmp_path / "b.heic", quality=-1)
    stored = [{"bytes": (tmp_path / name).read_bytes(), "path": None} for name in ("a", "b.heic")]
    features = datasets.Features({"image": datasets.Image()})
    source = _saved(tmp_path, datasets.Dataset.from_dict({"image": stored}, features=features))
    own = read_own(source, SHAPE)
    assert own.skipped == ()
    assert np.abs(own.images[:, 0, 0, 0].astype(int) - [64, 9]).max() <= 2


def test_once_read_neither_the_library_nor_the_set_s_values_are_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _saved(tmp_path, _set(0, 3, kind=[0, 1, 2]))
    first = read_own(source, SHAPE)
    monkeypatch.setitem(sys.modules, "datasets", None)  # to import it is an ImportError
    again = read_own(source, SHAPE)
    np.testing.assert_array_equal(first.images, again.images)
    assert again.classes == first.classes
    with pytest.raises(UserError, match=r'needs the library datasets; pip install "scorequilt\[hf'):
        read_own(source, (3, 4, 4))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hfdisk:{0}/none", "there is no folder .*none"),
        ("hfdisk:saved", "hfdisk:saved needs an absolute path"),
        ("hfdisk:{0}", "hfdisk:.* cannot be had"),
        ("hf:/etc", "hf:/etc cannot be had .*a folder is hfdisk:PATH"),
        ("hf:../x", r"hf:\.\./x cannot be had .*a folder is hfdisk:PATH"),
        ("hf:tests", "hf:tests cannot be had .*a folder is hfdisk:PATH"),
    ],
)
def test_what_is_not_there_is_one_line(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        read_own(source.format(tmp_path), SHAPE)
    assert "\n" not in str(caught.value)


def test_where_there_is_no_network_a_set_of_the_hub_is_one_line(tmp_path: Path) -> None:
    """In a process of its own: the library reads at its import that it is offline."""
    code = (
        "from common.data.own import read_own\n"
        "from common.errors import UserError\n"
        "try:\n    read_own('hf:nobody/nothing', (1, 4, 4))\n"
        "except UserError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "SCOREQUILT_CACHE": str(tmp_path)}
        | {"PYTHONPATH": ":".join(sys.path)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("data: hf:nobody/nothing cannot be had (")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_what_the_library_logs_of_its_retries_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(*_: Any, **__: Any) -> None:
        logging.getLogger("huggingface_hub").warning("Retrying in 1s\n[Retry 1/5].")
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(UserError, match=r"\(no network\); is there a network, and is it called so"):
        read_own("hf:a/b", SHAPE)
    assert "Retrying" not in caplog.text
    logging.getLogger("huggingface_hub").warning("Retrying again")
    assert "Retrying again" in caplog.text


def test_a_class_that_is_not_known_leaves_the_row_out(tmp_path: Path) -> None:
    own = read_own(_saved(tmp_path, _set(0, 3, kind=[1, -1, 2])), SHAPE)
    assert own.images[:, 0, 0, 0].tolist() == [0, 2]
    assert own.labels.tolist() == [1, 2]


def test_sets_without_pictures_or_without_training_are_refused(tmp_path: Path) -> None:
    words = datasets.Dataset.from_dict({"text": ["a", "b"]})
    with pytest.raises(UserError, match="has no column of images; it has text"):
        read_own(_saved(tmp_path / "a", words), SHAPE)
    parts = datasets.DatasetDict(one=_set(0, 1), other=_set(0, 1))
    with pytest.raises(UserError, match="no split called train; it has one, other"):
        read_own(_saved(tmp_path / "b", parts), SHAPE)


def _idx(path: Path, values: np.ndarray, packed: bool = False) -> None:
    sizes = np.array(values.shape, ">u4").tobytes()
    raw = bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if packed else raw)


@pytest.mark.parametrize(
    "names", ["{}-{}-idx{}-ubyte", "{}-{}-idx{}-ubyte.gz", "{}-{}.idx{}-ubyte"]
)
def test_idx_files_are_read_as_mnist_names_them(names: str, tmp_path: Path) -> None:
    images = np.arange(6 * 16).reshape(6, 4, 4)
    for split, part in (("train", slice(0, 4)), ("t10k", slice(4, 6))):
        packed = names.endswith("gz")
        _idx(tmp_path / names.format(split, "images", 3), images[part], packed)
        _idx(
            tmp_path / names.format(split, "labels", 1), np.array([3, 0, 1, 0, 2, 1])[part], packed
        )
    train, test = load_dataset(f"idx:{tmp_path}")
    np.testing.assert_array_equal(((train.images[:, 0] + 1) * 127.5).round(), images[:4])
    assert (train.labels.tolist(), test.labels.tolist()) == ([3, 0, 1, 0], [2, 1])
    assert train.num_classes == 4
    one = read_own(f"idx:{tmp_path / names.format('t10k', 'images', 3)}", None)
    assert one.labels.tolist() == [2, 1]
    assert one.held_out is None


def test_idx_files_that_are_none_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no train-images-idx3-ubyte beside"):
        read_own(f"idx:{tmp_path}", None)
    images, labels = (tmp_path / f"train-{x}-ubyte" for x in ("images-idx3", "labels-idx1"))
    _idx(images, np.zeros((3, 4, 4)))
    with pytest.raises(UserError, match="no IDX file"):
        read_own(f"idx:{images}", None)
    _idx(labels, np.zeros(2))
    with pytest.raises(UserError, match=r"\(3, 4, 4\) and .* of shape \(2,\) are not"):
        read_own(f"idx:{tmp_path}", None)
    _idx(labels, np.zeros(3))
    for damaged in (b"", b"\0\0\x0d\1\0\0\0\2", images.read_bytes()[:-1], b"\x1f\x8btorn"):
        images.write_bytes(damaged)
        with pytest.raises(UserError, match="no IDX file") as caught:
            read_own(f"idx:{tmp_path}", None)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_set_is_read_from_where_the_table_says_in_its_usual_shape(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = NAMED[name]
    asked = []

    def load(path: str, config: str | None, revision: str | None) -> datasets.DatasetDict:
        asked.append((path, config, revision))
        return datasets.DatasetDict(train=_set(0, 3), test=_set(3, 2))

    monkeypatch.setattr("datasets.load_dataset", load)
    train, test = load_dataset(name)
    assert train.image_shape == test.image_shape == named.shape
    assert (train.flippable, train.name) == (named.flippable, name)
    assert load_dataset(name, (1, 8, 8)).train.image_shape == (1, 8, 8)
    (first, second) = asked
    assert first == second
    path, config, revision = first
    words = f"hf:{path}" + (f":{config}" if config else "") + (f"@{revision}" if revision else "")
    assert words == named.source


def test_paths_are_counted_from_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    configs = importlib.import_module("simulations.archive.configs")
    for kind in ("folder", "npz", "idx", "hfdisk"):
        assert configs.load_config("digits", [f"data={kind}:x"]).data == f"{kind}:{tmp_path / 'x'}"
    assert configs.load_config("digits", ["data=hf:a/b:c"]).data == "hf:a/b:c"
    assert absolute_source("digits") == "digits"
    with pytest.raises(UserError, match="folder:x needs an absolute path"):
        read_own("folder:x", SHAPE)


def test_the_page_has_the_table_of_names() -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    for name, named in NAMED.items():
        classes = str(named.num_classes) if named.num_classes > 1 else "none"
        shape = "x".join(map(str, named.shape))
        assert f"| `{name}` | `{named.source}` | {shape} | {classes} |" in page
