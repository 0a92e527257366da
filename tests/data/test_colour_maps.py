"""Label maps in colour: tables of colours in every form, and pixels → class numbers by them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from beit.core.errors import ConfigError, DataError, InputError
from beit.data.colour_table import ColourTable
from beit.data.label_form import LabelForm
from beit.data.label_maps import LabelRules
from beit.data.sources.label_map_scan import check_maps
from beit.data.sources.labelled_folders import LabelledFolders
from fixtures_segment import blocks

ROAD, CAR, NOTHING = (128, 64, 128), (0, 0, 142), (0, 0, 0)
FORMS = {
    "label_colors.txt": "# CamVid\n128 64 128\t\troad\n0 0 142 \t car\n\n0 0 0 Void\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nroad:128,64,128::\ncar:0,0,142::\nunlabelled:0,0,0::\n",
    "table.csv": "id,name,r,g,b\n7,road,128,64,128\n26,car,0,0,142\n0,void,0,0,0\n",
    "plain.csv": "road;128;64;128\ncar;0;0;142\nignore;0;0;0\n",
    "a.json": json.dumps({"road": ROAD, "car": "#00008E", "void": [NOTHING]}),
    "b.json": json.dumps(
        {
            "classes": [
                {"title": "road", "color": "#804080"},
                {"title": "car", "color": CAR},
                {"title": "void", "color": NOTHING},
            ]
        }
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_table_says_the_same(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name])
    table = ColourTable.read(tmp_path / name)
    assert table.names == ("road", "car")
    assert dict(table.colours) == {0x804080: 0, 0x00008E: 1, 0: -1}
    assert table.void == ["(0, 0, 0)"]


def test_names_with_blanks_and_classes_of_several_colours(tmp_path):
    (tmp_path / "x.txt").write_text("1 2 3 traffic light\n4 5 6 traffic light\n7 8 9 class 2\n")
    assert ColourTable.read(tmp_path / "x.txt").names == ("traffic light", "class 2")
    (tmp_path / "x.json").write_text('{"light": [[1, 2, 3], [4, 5, 6]], "other": [7, 8, 9]}')
    assert dict(ColourTable.read(tmp_path / "x.json").colours) == {0x010203: 0, 0x040506: 0, 0x070809: 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 classes; wanted at least two"),
        ("128 64 128 road\n", "has 1 classes"),
        ("1 2 3 a\nb\n", "line 2: 'b' is no class with a colour"),
        ("1 2 3 a\n1 2 256 b\n", "line 2: the colour .* is not three numbers from 0 to 255"),
        ("1 2 3 a\n1 2 3 b\n", r"the colour \(1, 2, 3\) means both a and b"),
        ("name,r,g,b\na,1,2\n", "line 2: 3 columns; the header has 4"),
        ('{"a": [1, 2, 3],', "is not valid JSON"),
        ('{"a": [1, 2], "b": [1, 2, 3]}', r"a: the colour \[1, 2\] is not three"),
        ('["a", "b"]', "neither an object nor a list of objects"),
        ('[{"color": [1, 2, 3]}]', "a colour without the name of a class"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "table").write_text(text)
    with pytest.raises(DataError, match=message):
        ColourTable.read(tmp_path / "table")
    with pytest.raises(DataError, match="cannot be read"):
        ColourTable.read(tmp_path / "gone")


COLOURS = np.array([NOTHING, ROAD, CAR], np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Images of blocks, with maps in colour: the ground has no label."""
    for number in range(4):
        image, labels = blocks(number)
        for name, array in (("images", image), ("maps", COLOURS[labels])):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / name / f"{number}.png")
    (tmp_path / "t.txt").write_text(FORMS["label_colors.txt"])
    return tmp_path / "images", tmp_path / "maps"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_become_classes(tmp_path, folders, mode):
    images, maps = folders
    map_0 = Image.open(maps / "0.png")
    (map_0.quantize(16) if mode == "P" else map_0.convert(mode)).save(maps / "0.png")
    found = LabelledFolders(images, maps, colours=ColourTable.read(tmp_path / "t.txt"))
    expected = np.array([255, 0, 1])[blocks(0)[1]]
    assert found.classes == ["road", "car"]
    np.testing.assert_array_equal(found.target(0), expected)
    assert found.target(0).dtype == np.int64
    turned = found.with_classes(["boat", "car", "road"])  # by name
    np.testing.assert_array_equal(turned.target(0), np.array([255, 2, 1])[blocks(0)[1]])
    assert sorted(turned.look(0).numbers) == [1, 2, 255]
    with pytest.raises(
        DataError, match=r"t\.txt: the classes car are none of the 2 classes road, cart\. Did you mean cart\?"
    ):
        found.with_classes(["road", "cart"])
    assert len({found.fingerprint(), turned.fingerprint(), LabelledFolders(images, maps).fingerprint()}) == 3


def test_unknown_colours_are_refused_or_counted(tmp_path, folders, caplog):
    images, maps = folders
    array = np.asarray(Image.open(maps / "1.png")).copy()
    array[3, 5:9], array[7, 2] = (9, 8, 7), (1, 1, 1)
    Image.fromarray(array).save(maps / "1.png")
    found = LabelledFolders(images, maps, colours=ColourTable.read(tmp_path / "t.txt"))
    found.target(0)
    with pytest.raises(InputError) as error:
        found.target(1)
    for part in (
        "1.png: 5 of 256 pixels",
        "t.txt does not have",
        "(9, 8, 7) 4 times, first in column 5, row 3",
        "(1, 1, 1) 1 times",
    ):
        assert part in str(error.value)
    with pytest.raises(InputError, match="5 of 256 pixels"):
        check_maps(found)
    lenient = LabelledFolders(images, maps, colours=ColourTable.read(tmp_path / "t.txt", unknown_is_void=True))
    assert (lenient.target(1)[3, 5:9] == 255).all()
    check_maps(lenient)
    assert f"5 pixels in 1 of 4 label maps have colours that {tmp_path}/t.txt does not" in caplog.text
    assert lenient.fingerprint() != found.fingerprint()


def test_maps_of_another_kind_or_size(tmp_path, folders):
    images, maps = folders
    table = ColourTable.read(tmp_path / "t.txt")
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(maps / "0.png")
    with pytest.raises(InputError, match="numbers and no colours; leave out --colors"):
        LabelledFolders(images, maps, colours=table).target(0)
    Image.new("L", (16, 16), 1).save(maps / "0.png")
    with pytest.raises(InputError, match="a grey image: if it holds class numbers, leave out --colors"):
        LabelledFolders(images, maps, colours=table).target(0)
    Image.new("RGB", (16, 15)).save(maps / "0.png")
    for act in (lambda found: found.target(0), check_maps):
        with pytest.raises(InputError, match=r"has shape \(15, 16\) and its image \(16, 16\)"):
            act(LabelledFolders(images, maps, colours=table))


def test_the_table_of_another_folder_is_the_same_table(tmp_path, folders):
    (tmp_path / "copy.txt").write_text(FORMS["labelmap.txt"])
    one, other = (
        LabelledFolders(*folders, colours=ColourTable.read(tmp_path / name)) for name in ("t.txt", "copy.txt")
    )
    assert one.fingerprint() == other.fingerprint()


def test_settings_that_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="leave out reduce_labels and map_value"):
        LabelForm(LabelRules(reduce_labels=True), tmp_path / "t.txt")
    with pytest.raises(ConfigError, match="give the table of their colours with --colors"):
        LabelForm(unknown_colors="void")
