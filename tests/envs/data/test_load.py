"""Data of one's own: what is read from each kind of file, and one line for whatever is wrong with it."""

import numpy
import pytest
import torch
from PIL import Image

from ebbflow.envs import Continuous, InputError, Tokens, get_target, load_data
from ebbflow.trainers.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def all_rows(data) -> list[list[float]]:
    return sorted(torch.cat((data.train_rows, data.held_out)).tolist())


def message(path, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        load_data(path, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", ">f4", "float64"])
def test_floating_point_arrays_are_points(dtype):
    array = numpy.arange(24).reshape(6, 2, 2).astype(dtype)
    numpy.save("points.npy", array)
    data = load_data("points.npy")
    assert data.space == Continuous(4) and data.image_shape == (2, 2) and data.train_rows.dtype == torch.float32
    assert all_rows(data) == array.reshape(6, 4).tolist()


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">i4", "uint64"])
def test_integer_arrays_are_tokens(dtype):
    array = numpy.array([[0, 1, 1], [1, 0, 0], [0, 0, 1]]).astype(dtype)
    numpy.save("tokens.npy", array)
    data = load_data("tokens.npy")
    assert data.space == Tokens(3, 2) and data.train_rows.dtype == data.held_out.dtype == torch.int64
    assert all_rows(data) == sorted(array.astype(int).tolist())


def test_one_number_for_each_sample_is_a_point_on_the_line():
    numpy.save("line.npy", numpy.arange(5.0))
    assert load_data("line.npy").space == Continuous(1)


@pytest.mark.parametrize("header", ["", "height, weight\n", "\ufeffheight,weight\r\n"])
def test_tables(header, here):
    (here / "table.csv").write_text(f'{header}1.5, 2\n\n-3e2,"4"\n5,6\n', encoding="utf-8")
    data = load_data("table.csv")
    assert data.space == Continuous(2) and all_rows(data) == [[-300.0, 4.0], [1.5, 2.0], [5.0, 6.0]]


def images(here, n=3, size=(3, 2), mode="L"):
    folder = here / "images"
    folder.mkdir()
    for i in range(n):
        Image.new(mode, size, color=(i * 100,) * 3 if mode == "RGB" else i * 100).save(folder / f"{i}.png")
    (folder / "notes.md").write_text("not an image")
    return folder


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_folders_of_images_are_grey_points_or_tokens(here, mode):
    images(here, mode=mode)
    data = load_data("images")
    assert data.space == Continuous(6) and data.image_shape == (2, 3)
    assert torch.tensor(all_rows(data))[:, 0].tolist() == pytest.approx([-1.0, 100 / 127.5 - 1, 200 / 127.5 - 1])
    tokens = load_data("images", levels=4)
    assert tokens.space == Tokens(6, 4) and all_rows(tokens) == [[0] * 6, [1] * 6, [3] * 6]


def test_text(here):
    (here / "poem.txt").write_bytes("\ufeffgrün\r\nist die Heide\n".encode())
    data = load_data("poem.txt", length=3)
    windows = data.decode_tokens(data.train_rows) + data.decode_tokens(data.held_out)
    assert sorted(windows) == sorted(["grü", "n\ni", "st ", "die", " He", "ide"])


def test_the_share_the_seed_and_the_number_are_taken():
    numpy.save("points.npy", numpy.arange(100.0)[:, None])
    data, other = load_data("points.npy", held_out=0.3), load_data("points.npy", held_out=0.3, seed=1)
    assert len(data.held_out) == len(other.held_out) == 30 and not torch.equal(data.held_out, other.held_out)
    few = load_data("points.npy", held_out=0.3, unique=7)
    assert len(few.train_rows) == 7 and torch.equal(few.held_out, data.held_out)


def test_a_target_may_be_a_path(here, capsys):
    (here / "poem.txt").write_text("to be or not to be " * 20)
    assert get_target("poem.txt").space.length == 32
    assert get_target("./poem.txt", dim=5).space.length == 5
    images(here)
    assert get_target(str(here / "images")).space == Continuous(6)
    with pytest.raises(InputError, match=r"^missing\.csv: cannot be read: No such file"):
        get_target("missing.csv")
    with pytest.raises(InputError, match=r"^dim: target 'images' has 6 coordinates, got 5"):
        get_target("images", dim=5)
    assert main(["train", "missing.csv"]) == 2
    assert capsys.readouterr().err.startswith("ebbflow: missing.csv: cannot be read")


# What is wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        ([[1.0, 2.0], [3.0, float("nan")]], "a.npy: expected finite numbers, got nan in row 1, column 1, from 0"),
        ([[1.0, 2.0], [3.0, -float("inf")]], "a.npy: expected finite numbers, got -inf in row 1"),
        ([[1.0], [1e300]], "a.npy: train_rows: expected finite values, got inf"),
        ([[1.0, 2.0]], "a.npy: expected at least 2 samples, one to learn from and one to hold out, got 1"),
        ([[2.0], [2.0]], "a.npy: expected samples that differ, got the same one 1 times"),
        (3.0, "a.npy: expected an array [samples, ...], got shape []"),
        (numpy.zeros((0, 3)), "a.npy: expected an array [samples, ...], got shape [0, 3]"),
        (numpy.zeros((3, 0)), "a.npy: expected an array [samples, ...], got shape [3, 0]"),
        ([[0, -1]], "a.npy: integers are tokens: expected them from 0 to 65535, got -1"),
        ([[0, 65536]], "a.npy: integers are tokens: expected them from 0 to 65535, got 65536"),
        (["a", "b"], "a.npy: expected floating point numbers or integers, got an array of <U1"),
        ([1j, 2], "a.npy: expected floating point numbers or integers, got an array of complex128"),
    ],
)
def test_arrays_that_are_no_data(array, expected):
    numpy.save("a.npy", array)
    assert message("a.npy").startswith(expected)


def test_files_that_are_no_arrays(here):
    for content in (b"", b"hello", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', "):
        (here / "a.npy").write_bytes(content)
        assert message("a.npy").startswith("a.npy: expected an array as numpy.save writes it, got ")
    numpy.save("a.npy", numpy.array([{}, []], dtype=object), allow_pickle=True)
    assert "got 'Object arrays cannot be loaded" in message("a.npy")
    numpy.save("a.npy", numpy.arange(10.0))
    (here / "a.npy").write_bytes((here / "a.npy").read_bytes()[:-8])
    assert message("a.npy").startswith("a.npy: expected an array as numpy.save writes it, got ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a.csv: expected lines of numbers, got none"),
        ("x,y\n", "a.csv: expected lines of numbers, got none"),
        ("1,2\n3\n", "a.csv: expected 2 columns as in the first line of numbers, got 1 in line 2"),
        ("x,y\n1,2\n3,4,5\n", "a.csv: expected 2 columns as in the first line of numbers, got 3 in line 3"),
        ("1,2\n3,four\n", "a.csv: expected finite numbers, got 'four' in line 2"),
        ("1,2\n3,\n", "a.csv: expected finite numbers, got '' in line 2"),
        ("1,y\n3,4\n", "a.csv: expected finite numbers, got 'y' in line 1"),
        ("a,b\nc,d\n1,2\n", "a.csv: expected finite numbers, got 'c' in line 2"),
        ("1,2\nnan,4\n", "a.csv: expected finite numbers, got 'nan' in line 2"),
        ("1,2\n3,inf\n", "a.csv: expected finite numbers, got 'inf' in line 2"),
        ("1;2\n3;4\n", "a.csv: expected finite numbers, got '3;4' in line 2"),
        ("1,2\n", "a.csv: expected at least 2 samples, one to learn from and one to hold out, got 1"),
    ],
)
def test_tables_that_are_no_data(here, text, expected):
    (here / "a.csv").write_text(text)
    assert message("a.csv") == expected


def test_bytes_that_are_no_text(here):
    (here / "a.csv").write_bytes(b"1,2\n\xff\xfe,4\n")
    assert message("a.csv").startswith("a.csv: expected a table in UTF-8 text, got")
    (here / "a.txt").write_bytes(b"abc\xff")
    assert message("a.txt") == "a.txt: expected text in UTF-8, got another byte at position 3"
    (here / "a.txt").write_text("")
    assert message("a.txt") == "a.txt: expected at least 2 windows of 32 characters, got 0 characters"


def test_images_that_are_no_data(here):
    folder = images(here)
    Image.new("L", (2, 3)).save(folder / "9.png")
    assert message("images") == "images/9.png: expected images of one size, 3 x 2 as 0.png, got 2 x 3"
    (folder / "9.png").write_bytes(b"")
    assert message("images").startswith("images/9.png: expected an image, got UnidentifiedImageError: ")
    Image.new("I;16", (3, 2)).save(folder / "9.png")
    assert message("images") == "images/9.png: expected an image of 8 bits or less for each channel, got mode I;16"
    (here / "empty").mkdir()
    assert message("empty").startswith("empty: expected a folder of images (.bmp, ")
    (here / "one").mkdir()
    Image.new("L", (2, 3)).save(here / "one" / "9.png")
    assert message("one").startswith("one: expected at least 2 samples")


@pytest.mark.parametrize(
    ("path", "arguments", "expected"),
    [
        ("a.dat", {}, "a.dat: expected .npy, .csv, .txt or a folder of images, got '.dat'"),
        ("a", {}, "a: expected .npy, .csv, .txt or a folder of images, got 'no suffix'"),
        ("a.npy", {"length": 3}, "length: expected for text files only, got 3 for a.npy"),
        ("a.npy", {"levels": 3}, "levels: expected for folders of images only, got 3 for a.npy"),
        ("a.npy", {"held_out": 1.0}, "held_out: expected a share between 0 and 1, got 1.0"),
        ("a.npy", {"unique": 99}, "unique: expected at most the 4 samples that there are to learn from, got 99"),
        ("images", {"levels": 1}, "levels: expected a whole number >= 2, got 1"),
        ("images", {"levels": 257}, "levels: expected at most 256, as images have, got 257"),
    ],
)
def test_arguments_that_do_not_fit(here, path, arguments, expected):
    numpy.save("a.npy", numpy.arange(5.0))
    images(here)
    assert message(path, **arguments) == expected


def test_points_far_from_zero_or_of_unequal_size_are_told(tmp_path):
    path = tmp_path / "body.csv"
    path.write_text("height,weight\n" + "".join(f"{170 + i},{70 + 2 * i}\n" for i in range(10)))
    with pytest.warns(UserWarning, match=r"body.csv: coordinates lie up to .* standard deviations from 0"):
        load_data(path)
    path.write_text("a,b\n" + "".join(f"{i - 5},{100 * (5 - i)}\n" for i in range(11)))
    with pytest.warns(UserWarning, match="differ in size by a factor of 1e\\+02"):
        load_data(path)
