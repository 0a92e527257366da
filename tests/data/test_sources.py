"""Where images come from: braces, tar shards as people write them, servers that fail, data sets of the Hub; errors."""

from __future__ import annotations

import gzip
import io
import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beit.core import http as remote
from beit.core.errors import ConfigError, DataError, InputError
from beit.data.decode import decode_image
from beit.data.sources import open_images
from beit.data.sources.images import EmptyFolderError, FolderImages
from beit.data.sources.paths import PathList, list_images
from beit.data.sources.patterns import expand_braces
from beit.data.sources.shards import EncodedSample, TruncatedShard
from beit.data.sources.stream import Stream
from beit.data.sources.tar import TarShards
from fixtures_runs import stripes, write_images
from fixtures_streams import colour, encoded, number_of, numbered, serving, striped, write_parquet, write_tar


def read_all(shards, number: int = 0, first: int = 0) -> tuple[list[int], list[str]]:
    """The numbers of the images, and why a shard was cut."""
    found = list(shards.read(number, first))
    images = [number_of(decode_image(raw.data, raw.name)) for raw in found if isinstance(raw, EncodedSample)]
    return images, [cut.reason for cut in found if isinstance(cut, TruncatedShard)]


# --- paths of folders --------------------------------------------------------------------------------------------


@given(st.lists(st.text("ab/-.é\n", min_size=1, max_size=6), max_size=12, unique=True), st.data())
def test_a_path_list_is_a_list_of_paths(names, data):
    blob = [name.encode() + b"\n" for name in names]
    paths = PathList("folder", b"".join(blob), [len(name) for name in blob])
    expected = [f"folder/{name}" if name[0] != "/" else name for name in names]
    assert paths == expected
    assert list(reversed(paths)) == expected[::-1]
    assert paths[1:] == expected[1:]
    if names:
        chosen = data.draw(st.lists(st.integers(0, len(names) - 1)))
        assert paths.take(chosen) == [expected[i] for i in chosen]
        assert paths[-1] == expected[-1]
    with pytest.raises(IndexError):
        paths[len(names)]
    assert paths != [*expected, "x"]


def test_listing_sorts_as_paths_do_and_names_first_folders(tmp_path):
    for name in ("a/1.png", "a/b/2.png", "a.png", "a-c/3.png", "a.d/4.png", "Z/5.PNG", "ä/6.png", "b.png", "a/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list_images(tmp_path)
    assert list(found) == sorted(str(path) for path in tmp_path.rglob("*") if path.is_file())
    expected: dict[str, int] = {}
    for path in found:
        head = Path(path).relative_to(tmp_path).parts
        expected[head[0] if len(head) > 1 else ""] = expected.get(head[0] if len(head) > 1 else "", 0) + 1
    counts: dict[str, int] = {}
    for name, start, end in found.first_folders():
        assert all(str(path).startswith(str(tmp_path / name)) for path in found[start:end])
        counts[name] = counts.get(name, 0) + end - start
    assert counts == expected


def test_links_between_folders_end(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    (tmp_path / "a/to b").symlink_to(tmp_path / "b")
    (tmp_path / "b/to a").symlink_to(tmp_path / "a")
    (tmp_path / "a/2.png").symlink_to(tmp_path / "b/1.png")
    names = [str(Path(path).relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert names == ["a/1.png", "a/2.png", "a/to b/1.png", "b/1.png", "b/to a/1.png", "b/to a/2.png"]


# --- braces ------------------------------------------------------------------------------------------------------


def test_braces():
    assert expand_braces("x.tar") == ["x.tar"]
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{8..10}") == ["8", "9", "10"]
    assert expand_braces("{a,b}/{0..1}.tar") == ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]
    assert expand_braces("{x,}y") == ["xy", "y"]
    for wrong in ("{0..3", "0}", "{a{b,c}}", "{3..1}", "{x}", "{}", "{0..99999999}", "{0..999}{0..9999}"):
        with pytest.raises(DataError, match=r"\{|files"):
            expand_braces(wrong)


# --- tar files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
def test_members_become_samples(tmp_path, kind, ending):
    long = "a folder with a long name/" * 5 + "7"
    members = [
        ("./3.jpg", encoded(stripes(1)[0][0], "jpeg")),
        ("3.cls", b" 5\n"),
        ("._3.jpg", b"what macOS leaves"),
        ("notes.txt", b"no image"),
        ("n01/4.depth.png", colour(9)),
        ("n01/4.json", json.dumps({"label": "cat", "other": [1]}).encode()),
        ("n01/4.png", colour(4)),
        (f"{long}.PNG", colour(7)),
        ("only.cls", b"3"),
        ("8.png", colour(8)),
        ("8.json", json.dumps({"class": 2}).encode()),
        ("9.webp", colour(9)),
        ("9.json", b"no JSON"),
    ]
    path = write_tar(tmp_path / f"x.{ending}", members, "w" if ending == "tar" else "w:gz", kind)
    shards = TarShards([str(path)])
    found = list(shards.read(0))
    assert all(isinstance(raw, EncodedSample) for raw in found)
    assert [raw.key for raw in found] == ["3", "n01/4", long, "8", "9"]
    assert [raw.label for raw in found] == [5, "cat", None, 2, None]
    assert [number_of(decode_image(raw.data, "")) for raw in found[1:]] == [4, 7, 8, 9]
    assert found[0].name == f"{path}: 3.jpg"
    for first in range(7):
        assert list(shards.read(0, first)) == found[first:]


def test_folders_and_links_in_a_tar_file_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for kind, name in ((tarfile.DIRTYPE, "a.png"), (tarfile.SYMTYPE, "b.png"), (tarfile.LNKTYPE, "c.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "x"
            tar.addfile(info)
        info = tarfile.TarInfo("d.png")
        info.size = len(colour(3))
        tar.addfile(info, io.BytesIO(colour(3)))
    assert read_all(TarShards([str(tmp_path / "x.tar")])) == ([3], [])


def test_a_tar_file_cut_anywhere_gives_what_came_before(tmp_path):
    members = [(f"{i}.{kind}", colour(i) if kind == "png" else b"1") for i in range(4) for kind in ("cls", "png")]
    whole = write_tar(tmp_path / "whole.tar", members).read_bytes()
    path = tmp_path / "x.tar"
    shards = TarShards([str(path)])
    lengths = [n for n in range(len(whole) + 1) if n % 97 == 0 or n % 512 in (0, 1, 511)]
    for length in lengths:
        path.write_bytes(whole[:length])
        images, cuts = read_all(shards)
        assert images == list(range(len(images)))
        assert len(images) >= (length - 1024) // 2048  # four blocks a sample, the image's data the last
        assert len(cuts) == (length < 8 * 1024 and length % 1024 != 0)
        assert all("damaged or cut" in reason and str(path) in reason for reason in cuts)
        for first in range(1, 4):
            assert read_all(shards, first=first)[0] == images[first:]


@pytest.mark.parametrize("packed", [False, True])
def test_whatever_is_wrong_with_a_tar_file_is_a_cut(tmp_path, packed):
    rng = np.random.default_rng(0)
    path = numbered(tmp_path / ("x.tgz" if packed else "x.tar"), 0, 5, "w:gz" if packed else "w")
    whole = path.read_bytes()
    cuts = 0
    for number in range(120):
        data = bytearray(whole[: len(whole) * (number + 1) // 120] if number % 2 else whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        cuts += any(isinstance(found, TruncatedShard) for found in TarShards([str(path)]).read(0))
    assert cuts > 40


# --- what is opened ----------------------------------------------------------------------------------------------


def test_the_forms_of_sources(tmp_path):
    for number in range(3):
        numbered(tmp_path / f"shards/train-{number}.tar", 10 * number, 2)
    write_images(tmp_path / "images", 4, labelled=True)
    folder = open_images(tmp_path / "images", labelled=True, smallest_side=5)
    assert isinstance(folder, FolderImages)
    assert (folder.smallest_side, folder.classes) == (5, ["flat", "upright"])
    for pattern in ("train-{0..2}.tar", "train-*.tar", "train-{0,1,2}.tar", "*-?.tar"):
        stream = open_images(f"{tmp_path}/shards/{pattern}", smallest_side=3, shuffle_buffer=7)
        assert isinstance(stream, Stream)
        assert stream.shards.names == ["train-0.tar", "train-1.tar", "train-2.tar"]
        assert (stream.smallest_side, stream.shuffle_buffer) == (3, 7)
        assert read_all(stream.shards, 1) == ([10, 11], [])
    assert open_images(tmp_path / "shards/train-1.tar").fingerprint() != stream.fingerprint()
    odd = numbered(tmp_path / "a{b}*.tar", 5, 1)
    assert read_all(open_images(odd).shards) == ([5], [])
    address = open_images(Path("https://server/a/train-{000..001}.tar"))  # Path takes one of the slashes
    assert address.shards.files == ["https://server/a/train-000.tar", "https://server/a/train-001.tar"]
    assert open_images("https://server/x.tar.gz?key=a.b").shards.names == ["x.tar.gz"]


def test_wrong_sources_are_refused_with_the_forms(tmp_path):
    numbered(tmp_path / "only tars/1.tar", 0, 1)
    (tmp_path / "text.txt").write_text("x")
    forms = r"Wanted a folder of images; tar shards.*hub:OWNER/NAME"
    for source, reason in (
        (tmp_path / "gone", "is not a folder"),
        (tmp_path / "text.txt", "is a file, but no tar file"),
        (tmp_path / "gone.tar", "no such file"),
        (tmp_path / "only tars/{1..2}.tar", "2.tar: no such file"),
        (tmp_path / "gone-*.tar", "nothing matches"),
        ("https://server/images.zip", "does not end in .tar"),
        ("s3://bucket/x.tar", "only http:// and https://"),
        ("hub:", "no name of a data set"),
        ("hub:/no/such/folder", "no such folder"),
        ("hub:a b/c", "no name of a data set"),
    ):
        with pytest.raises(DataError, match=f"(?s){reason}.*{forms}"):
            open_images(source)
    with pytest.raises(DataError, match="does not list its files"):
        open_images("https://server/*.tar")
    with pytest.raises(DataError, match="no name of a split"):
        open_images("hub:a/b:train[:5]")
    with pytest.raises(DataError, match=r"no images, but 1 tar files.*only tars/\*\.tar"):
        open_images(tmp_path / "only tars")
    (tmp_path / "no images").mkdir()  # the name of a folder is not mistaken for a reason
    (tmp_path / "no images/a.png").touch()
    numbered(tmp_path / "no images/1.tar", 0, 1)
    with pytest.raises(DataError, match="1 images are in no class folder"):
        open_images(tmp_path / "no images", labelled=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptyFolderError):
        open_images(tmp_path / "empty")
    with pytest.raises(DataError, match="names 1 files twice"):
        open_images(f"{tmp_path}/only tars/{{1,1}}.tar")


def test_labels_of_tar_shards(tmp_path):
    path = striped(tmp_path / "x.tar", 4, 0)
    with pytest.raises(ConfigError, match="--classes FILE"):
        open_images(path, labelled=True)
    stream = open_images(path, labelled=True, classes=["flat", "upright"])
    found = list(stream.shards.read(0))
    assert [stream.target(raw) for raw in found] == [0, 1, 0, 1]
    assert [open_images(path).target(raw) for raw in found] == [0] * 4
    assert stream.target(EncodedSample("", "", b"", "upright")) == 1
    with pytest.raises(DataError, match=r"x\.tar: 1\.png: no label \(beside it"):
        stream.target(EncodedSample("1", "x.tar: 1.png", b""))
    for label in (2, -1, "cat"):
        with pytest.raises(InputError, match="wanted a number from 0 to 1, or one of flat, upright"):
            stream.target(EncodedSample("", "", b"", label))


# --- servers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote, "PAUSES", (0.001,) * 5)
    monkeypatch.setattr(remote, "_PIECE", 1000)
    with serving(tmp_path) as server:
        yield server


def test_shards_of_a_server(tmp_path, server):
    numbered(tmp_path / "a-0.tar", 0, 3)
    numbered(tmp_path / "a-1.tar.gz", 3, 3, "w:gz")
    stream = open_images(f"{server.address}/a-{{0.tar,1.tar.gz}}")
    assert read_all(stream.shards, 0) == ([0, 1, 2], [])
    assert read_all(stream.shards, 1, 1) == ([4, 5], [])
    assert [path for path, _ in server.requests] == ["/a-0.tar", "/a-1.tar.gz"]


@pytest.mark.parametrize("ranges", [True, False])
def test_lost_connections_go_on_where_they_were_lost(tmp_path, server, ranges):
    numbered(tmp_path / "x.tar", 0, 28)
    server.ranges, server.failing, server.dropping = ranges, 3, 3
    assert read_all(TarShards([f"{server.address}/x.tar"])) == (list(range(28)), [])
    asked = [range_ for _, range_ in server.requests]
    assert asked[:4] == [None] * 4  # three failures, then half of the file
    size = (tmp_path / "x.tar").stat().st_size
    assert asked[4] == f"bytes={size // 2}-"
    assert len(asked) == 7 if ranges else len(asked) >= 7


def test_six_failures_in_a_row_are_too_many(tmp_path, server, caplog):
    numbered(tmp_path / "x.tar", 0, 3)
    server.failing = 5
    with caplog.at_level(logging.INFO, logger="beit"):
        assert read_all(TarShards([f"{server.address}/x.tar"]))[0] == [0, 1, 2]
    assert caplog.text.count("trying again") == 5
    server.failing = -1
    server.requests.clear()
    with pytest.raises(
        DataError, match=r"x\.tar cannot be read after 6 failures in a row; the last: HTTP 503.*--resume"
    ):
        read_all(TarShards([f"{server.address}/x.tar"]))
    assert len(server.requests) == 6


def test_what_is_not_there_is_not_asked_for_again(server):
    with pytest.raises(DataError, match=r"gone\.tar cannot be read: HTTP 404 Not Found\. Check the address"):
        read_all(TarShards([f"{server.address}/gone.tar"]))
    assert len(server.requests) == 1


def test_a_server_that_is_off(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote, "PAUSES", ())
    with pytest.raises(DataError, match="cannot be read after 1 failures"):
        read_all(TarShards(["http://127.0.0.1:9/x.tar"]))


def test_a_file_that_changes_under_way_is_refused(tmp_path, server):
    path = numbered(tmp_path / "x.tar", 0, 8)
    file = remote.RemoteFile(f"{server.address}/x.tar")
    server.dropping = 1
    file.read(2000)
    path.write_bytes(path.read_bytes() + b"more")
    server.ranges = False
    with pytest.raises(DataError, match="changed while it was read"):
        file.read(1 << 20)
    file.close()


# --- data sets ---------------------------------------------------------------------------------------------------


def test_a_data_set_from_a_folder_of_parquet_files(tmp_path, hub_home):
    folder = write_parquet(tmp_path / "animals")
    stream = open_images(f"hub:{folder}", labelled=True)
    assert stream.classes == ["cat", "dog"]
    assert stream.shards.names == ["animals-train-00000", "animals-train-00001"]
    assert read_all(stream.shards, 0) == ([0, 1, 2, 3, 4], [])
    assert read_all(stream.shards, 1, 3) == ([8, 9], [])
    assert [stream.target(raw) for raw in stream.shards.read(1)] == [0, 1, 0, 1, 0]
    # A model that knows the classes in another order, and more of them, keeps its own.
    other = open_images(f"hub:{folder}:train", labelled=True, classes=["emu", "dog", "cat"])
    assert [other.target(raw) for raw in other.shards.read(1)] == [2, 1, 2, 1, 2]
    with pytest.raises(DataError, match="does not know: cat"):
        open_images(f"hub:{folder}", labelled=True, classes=["dog", "emu"])


def test_data_sets_that_cannot_be_used(tmp_path, hub_home):
    folder = write_parquet(tmp_path / "animals", image=None)
    with pytest.raises(DataError, match=r"no column of images. It has: label \(ClassLabel\), text \(Value\)"):
        open_images(f"hub:{folder}")
    with pytest.raises(DataError, match="split test, cannot be opened"):
        open_images(f"hub:{folder}:test")
    unlabelled = write_parquet(tmp_path / "unlabelled", label=None)
    with pytest.raises(
        DataError, match=r"has no column of labels. It has: image \(Image\), text \(Value\).*called label, labels"
    ):
        open_images(f"hub:{unlabelled}", labelled=True)
    open_images(f"hub:{unlabelled}")  # which is no matter where no labels are wanted
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be opened"):
        open_images(f"hub:{tmp_path / 'empty'}")


def test_damaged_gzip_says_so(tmp_path):
    data = numbered(tmp_path / "x.tar", 0, 3).read_bytes()
    (tmp_path / "x.tgz").write_bytes(gzip.compress(data)[:-20])
    images, cuts = read_all(TarShards([str(tmp_path / "x.tgz")]))
    assert images in ([0, 1], [0, 1, 2])
    assert len(cuts) <= 1
    (tmp_path / "x.tgz").write_bytes(b"no gzip")
    assert len(read_all(TarShards([str(tmp_path / "x.tgz")]))[1]) == 1
