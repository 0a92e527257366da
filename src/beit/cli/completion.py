"""`beit completion`: scripts with which a shell completes commands, options and the words that options take.

The words come from the commands themselves: each is called in a way in which it names its settings and does nothing else
(`beit.cli.parsing.offer`). So a new command or option is completed without a line here.
"""

from __future__ import annotations

import dataclasses
import shlex
import typing
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import tyro

from beit.cli.parsing import asked, flags_of_start, parse
from beit.core.settings import Settings

_POSITIONAL = get_args(tyro.conf.Positional[int])[1]  # with which tyro marks what is no option
_INSTALL = {
    "bash": "echo 'eval \"$(beit completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(beit completion zsh)\"' >> ~/.zshrc    # after compinit",
    "fish": "beit completion fish > ~/.config/fish/completions/beit.fish",
}


@dataclass(kw_only=True)
class Completion(Settings):
    """Print a script with which the shell completes commands and options. For bash, once and for good:

    echo 'eval "$(beit completion bash)"' >> ~/.bashrc
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """The shell that is to complete."""


def completion_command(arguments: list[str]) -> None:
    settings = parse(Completion, "completion", arguments)
    commands = tree()
    print({"bash": bash, "zsh": zsh, "fish": fish}[settings.shell](commands))


@dataclass(frozen=True)
class Command:
    """What can be typed after a command.

    Attributes:
        words: the command, one word or two.
        text: what it does.
        actions: words that may follow, for a command such as `beit segment`.
        flags: option → the words that it takes; None for a value of another kind, such as a path; () for no value.
    """

    words: tuple[str, ...]
    text: str
    actions: tuple[str, ...] = ()
    flags: typing.Mapping[str, tuple[str, ...] | None] = dataclasses.field(default_factory=dict)


def tree() -> list[Command]:
    """All commands, each action after its command."""
    from beit.cli import COMMANDS, function_of

    found = []
    for name, (_, text) in COMMANDS.items():
        offered = asked(function_of(name))
        found.append(Command((name,), text, tuple(offered.actions), _flags(offered.kinds)))
        for action, (function, about) in offered.actions.items():
            found.append(Command((name, action), about, (), _flags(asked(function).kinds)))
    return found


def _flags(kinds: tuple[Any, ...]) -> dict[str, tuple[str, ...] | None]:
    found: dict[str, tuple[str, ...] | None] = {}
    for kind in kinds:
        hints = typing.get_type_hints(kind, include_extras=True)
        for item in dataclasses.fields(kind):
            hint = hints[item.name]
            flag = item.name.replace("_", "-")
            if _POSITIONAL in get_args(hint)[1:]:
                continue
            if hint is bool:
                found |= {f"--{flag}": (), f"--no-{flag}": ()}
            else:
                found[f"--{flag}"] = _words(hint)
        found |= flags_of_start(kind)
    return {**found, "--help": ()} if kinds else {}


def _words(hint: Any) -> tuple[str, ...] | None:
    """The words of a `Literal`, also beside other types; None where any value may stand."""
    if get_origin(hint) is Literal:
        return tuple(str(word) for word in get_args(hint))
    found = tuple(word for option in get_args(hint) for word in _words(option) or ())
    return found if found and get_origin(hint) not in (tuple, list) else None


# --- scripts -----------------------------------------------------------------------------------------------------------


def bash(commands: list[Command]) -> str:
    """The script for bash; files where neither a command nor an option fits."""
    return "\n".join(
        [
            f"# Completion of beit. For good: {_INSTALL['bash']}",
            "_beit() {",
            '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" words="" values=""',
            '    local command="${COMP_WORDS[1]}"',
            "    COMPREPLY=()",
            *_cases(commands, "COMP_CWORD == 1", "COMP_CWORD == 2", "COMP_CWORD > 2", "${COMP_WORDS[2]}", "$previous"),
            '    if [[ -n "$values" && $current != -* ]]; then words="$values"; elif [[ $words == -* && $current != -* ]]; then return; fi',
            '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -F _beit beit",
        ]
    )


def zsh(commands: list[Command]) -> str:
    """The script for zsh."""
    return "\n".join(
        [
            f"# Completion of beit. For good: {_INSTALL['zsh']}",
            "_beit() {",
            '    local current="${words[CURRENT]}" previous="${words[CURRENT-1]}" typed="" values=""',
            '    local command="${words[2]}" second="${words[3]}"',
            *(
                line.replace('words="', 'typed="')
                for line in _cases(commands, "CURRENT == 2", "CURRENT == 3", "CURRENT > 3", "$second", "$previous")
            ),
            '    if [[ -n "$values" && $current != -* ]]; then compadd -- ${=values}',
            "    elif [[ $typed == -* && $current != -* ]]; then _files",
            "    else compadd -- ${=typed}; fi",
            "}",
            "compdef _beit beit",
        ]
    )


def _cases(commands: list[Command], first: str, second: str, later: str, action: str, previous: str) -> list[str]:
    """What bash and zsh do alike: set `words` and `values` by the command line so far."""
    names = " ".join(command.words[0] for command in commands if len(command.words) == 1)
    groups = "|".join(command.words[0] for command in commands if command.actions)
    lines = [
        f'    if (( {first} )); then words="{names} --help --version"; else',
        f'    if (( {later} )); then case "$command" in {groups}) command="$command {action}";; esac; fi',
        '    case "$command" in',
    ]
    for command in commands:
        options = " ".join([*command.actions, *command.flags])
        lines.append(f'    "{" ".join(command.words)}") words="{options}"')
        taking = {flag: words for flag, words in command.flags.items() if words}
        if taking:
            lines.append(f'        case "{previous}" in')
            lines += [f'        {flag}) values="{" ".join(words)}";;' for flag, words in taking.items() if words]
            lines.append("        esac")
        lines.append("        ;;")
    return [*lines, "    esac", "    fi"]


def fish(commands: list[Command]) -> str:
    """The script for fish."""
    lines = [
        f"# Completion of beit. For good: {_INSTALL['fish']}",
        "complete -c beit -n __fish_use_subcommand -l version",
    ]
    for command in commands:
        if len(command.words) == 1:
            lines.append(
                f"complete -c beit -f -n __fish_use_subcommand -a {command.words[0]} -d {shlex.quote(command.text)}"
            )
            when = f"__fish_seen_subcommand_from {command.words[0]}"
        else:
            group, action = command.words
            siblings = next(other.actions for other in commands if other.words == (group,))
            none = f"__fish_seen_subcommand_from {group}; and not __fish_seen_subcommand_from {' '.join(siblings)}"
            lines.append(f"complete -c beit -f -n {shlex.quote(none)} -a {action} -d {shlex.quote(command.text)}")
            when = f"__fish_seen_subcommand_from {group}; and __fish_seen_subcommand_from {action}"
        for flag, words in command.flags.items():
            takes = "" if words == () else " -r" if words is None else f" -x -a {shlex.quote(' '.join(words))}"
            lines.append(f"complete -c beit -n {shlex.quote(when)} -l {flag.removeprefix('--')}{takes}")
    return "\n".join(lines)
