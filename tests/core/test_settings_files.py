"""Files of settings: what is read from JSON, YAML and TOML, and that mistakes are told with their line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from beit.core.errors import ConfigError, MissingExtraError
from beit.core.settings_files import of_no_setting, read_settings

WANTED = {"batch_size": 16, "learning_rate": 1e-3, "model": "base", "crop_scale": [0.5, 1.0], "compile": True}


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "# mine\nbatch-size: 16\nlearning_rate: 1e-3\nmodel: base\ncrop_scale: [0.5, 1.0]\ncompile: true\n"),
        ("A.YML", "{batch_size: 16, learning_rate: 1E-3, model: base, crop-scale: [0.5, 1.0], compile: true}"),
        ("a.toml", 'batch-size = 16\nlearning_rate = 1e-3\nmodel = "base"\ncrop_scale = [0.5, 1.0]\ncompile = true\n'),
        (
            "a.json",
            '{"batch_size": 16, "learning_rate": 0.001, "model": "base", "crop_scale": [0.5, 1], "compile": true}',
        ),
        ("bom.yaml", "\ufeffbatch_size: 16\nlearning_rate: .001\nmodel: base\ncrop_scale: [0.5, 1.0]\ncompile: true"),
    ],
)
def test_three_ways_to_write_the_same(tmp_path: Path, name: str, text: str) -> None:
    assert dict(read_settings(written(tmp_path, name, text)).values) == WANTED


@pytest.mark.parametrize("name", ["a.yaml", "a.toml", "a.json"])
def test_each_setting_has_its_line(tmp_path: Path, name: str) -> None:
    text = {
        "a.yaml": "# steps: 1\n\nsteps: 3\nmodel: x # steps: 4\n",
        "a.toml": '# how long\n\nsteps = 3\nmodel = "x"\n',
        "a.json": '{\n\n"steps": 3,\n"model": "x"}',
    }[name]
    file = read_settings(written(tmp_path, name, text))
    assert dict(file.lines) == {"steps": 3, "model": 4}
    assert file.where("model") == f"{tmp_path / name}, line 4"
    assert file.where("absent") == str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "a: 1\nb: 2\na: 3", "line 3: a is given twice"),
        ("a.yaml", "a-b: 1\na_b: 3", "line 2: a_b is given twice"),
        ("a.yaml", "a: [1\nb: 2", "line 2: not valid YAML"),
        ("a.yaml", "a: 1\n\tb: 2", "line 2: not valid YAML"),
        ("a.yaml", "a: 2026-13-45", "line 1: a cannot be read.*quotes"),
        ("a.yaml", "x: &n 1\ny: *n", "aliases"),
        ("a.yaml", "a: 1\nb: !!python/name:os.system 1", "line 2: not valid YAML"),
        ("a.yaml", "a: 1\n---\nb: 2", "line 2: not valid YAML"),
        ("a.yaml", "? [a, b]\n: 1", "line 1: wanted the name of a setting"),
        ("a.yaml", "a: \x01", "not valid YAML"),
        ("a.yaml", "- a\n- b", "holds no settings"),
        ("a.yaml", "", "holds no settings"),
        ("a.yaml", "a: " + "[" * 5000, "nested too deep"),
        ("a.toml", "a = 1\na = 2", "not valid TOML"),
        ("a.toml", "a = 1\nb =\n", "not valid TOML.*line 2"),
        ("a.toml", "", "holds no settings"),
        ("a.json", '{"a": 1,\n "a": 2}', "line 2: a is given twice"),
        ("a.json", '{"a": 1,\n "b" 2}', r"line 2: not valid JSON.*\.yaml or \.toml"),
        ("a.json", "[1]", "holds no settings"),
        ("a.json", '{"a": ' + "1" * 5000 + "}", "not valid JSON"),
        ("a.yaml", b"a: 1\nb: \xff", "line 2: not UTF-8"),
        ("a.yaml", b"a" * 1_000_001, "more than 1,000,000 bytes"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, name: str, text: Any, message: str) -> None:
    path = written(tmp_path, name, text)
    with pytest.raises(ConfigError, match=message) as found:
        read_settings(path)
    assert str(path) in str(found.value)


@pytest.mark.parametrize("path", ["absent.yaml", ".", "a\0b"])
def test_what_cannot_be_read(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(path)


def test_values_that_no_setting_has(tmp_path: Path) -> None:
    text = "day: 2026-01-02\ntime: 2026-01-02T03:04:05Z\nswitch: no\ntable: {a: 1}\nnumber: 1\n"
    values = read_settings(written(tmp_path, "a.yaml", text)).values
    words = {name: of_no_setting(value) for name, value in values.items()}
    assert words["day"].startswith("a date here; write it in quotes")
    assert words["time"].startswith("a time")
    assert words["switch"].startswith("false here")
    assert words["table"].startswith("a table")
    assert words["number"] == ""


def test_without_pyyaml_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match=r"yaml is needed for settings in YAML.*pip install"):
        read_settings(written(tmp_path, "a.yaml", "a: 1"))
    assert read_settings(written(tmp_path, "a.toml", "a = 1")).values == {"a": 1}
