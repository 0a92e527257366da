"""`beit completion`: the scripts complete commands, actions, options and words; bash itself says so."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

from beit.cli import COMMANDS, function_of, main
from beit.cli.completion import bash, fish, tree, zsh
from beit.cli.parsing import asked
from fixtures_runs import refused

_ASK = """
COMP_WORDS=("${@}")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_beit
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script() -> str:
    return bash(tree())


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fin", {"finetune"}),
        ("p", {"pretrain", "predict", "probe", "plan"}),
        ("finetune --imag", {"--images", "--images-per-epoch", "--image-size", "--image-folder"}),
        ("finetune --no-comp", {"--no-compile"}),
        ("finetune --model x --tracker ", {"tensorboard", "wandb", "mlflow", "none"}),
        ("finetune --tracker w", {"wandb"}),
        ("finetune --resume --outp", {"--output"}),
        ("finetune --resume m", {"must"}),
        ("finetune --setti", {"--settings"}),
        ("pretrain --recipe small-", {"small-photos", "small-images"}),
        ("segment ", {"train", "evaluate", "predict", "demo"}),
        ("segment predict --mo", {"--model", "--mode"}),
        ("segment predict --mode ", {"slide", "whole"}),
        ("plan finetune --devi", {"--device", "--devices"}),
        ("predict pho", set()),  # files, which bash completes itself
        ("predict --images", set()),  # they have no flag
        ("nosuch --", set()),
    ],
)
def test_bash_completes(script: str, typed: str, offered: set[str]) -> None:
    words = ["beit", *typed.split(" ")]
    ended = subprocess.run(
        ["bash", "-c", script + _ASK, "-", *words], capture_output=True, text=True, timeout=20, check=True
    )
    assert ended.stderr == ""
    assert set(ended.stdout.split()) == offered


def test_every_command_says_what_can_follow_and_does_nothing_else(capsys: Any) -> None:
    for name in COMMANDS:
        offered = asked(function_of(name))
        assert offered.kinds or offered.actions, name
        for function, _ in offered.actions.values():
            assert asked(function).kinds, name
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_name_every_command_and_option(shell: str, capsys: Any) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# Completion of beit. For good: ")
    for command in tree():
        assert all(word in text for word in command.words)
        for flag in command.flags:
            assert (f"-l {flag.removeprefix('--')}" if shell == "fish" else flag) in text


def test_scripts_for_shells_that_may_not_be_here() -> None:
    commands = tree()
    assert "compdef _beit beit" in zsh(commands)
    assert 'case "$command" in' in zsh(commands)
    lines = fish(commands).splitlines()
    assert all(line.startswith(("complete -c beit ", "#")) for line in lines)
    assert any("-l tracker -x -a 'tensorboard wandb mlflow none'" in line for line in lines)
    for shell, text in (("zsh", zsh(commands)), ("fish", fish(commands))):
        if shutil.which(shell) is not None:
            subprocess.run([shell, "-n", "-c", text], check=True, timeout=20)


def test_another_shell_is_refused(capsys: Any) -> None:
    refused(capsys, ["completion", "powershell"], "powershell", status=2)
