# SPDX-License-Identifier: LGPL-2.1-or-later
"""The shell completions offer what the command takes: the same verbs, options and values, in bash as it runs them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from confext_helpers.builder.sourcetree import Allow
from confext_helpers.command.options import OPTIONS, VERBS, Option
from confext_helpers.image import policy
from confext_helpers.image.partitiontypes import TYPES

COMPLETION = Path(__file__).parents[3] / "helpers/completion"
BASH = COMPLETION / "bash/unit-confext"
ZSH = COMPLETION / "zsh/_unit-confext"

# What bash splits words at when nothing was changed, and when somebody took all of it away.
WORD_BREAKS = "[=:@]"

SYSTEMCTL = r"""#!/bin/sh
case "$*" in
list-units\ *--type=service*)
    echo 'nginx.service loaded active running A web server'
    echo 'foo@bar.service loaded active running Foo'
    echo 'a\x2db.service loaded active running Odd'
    echo 'unit-confext-restack@nginx.service.service loaded active exited Ours' ;;
list-unit-files\ *--type=service*)
    echo 'nginx.service enabled enabled'
    echo 'foo@.service static -'
    echo 'other.service disabled enabled' ;;
esac
"""


def options_of(verb: str) -> set[str]:
    """Every spelling of every option that a verb takes."""
    return {name for option in OPTIONS for name in option.names if not option.verbs or verb in option.verbs}


EVERY_OPTION = {name for option in OPTIONS for name in option.names}
WITH_VALUE = [(option, name) for option in OPTIONS for name in option.names if option.value]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with files in it to complete, and a systemctl that knows a few units."""
    for name in ("site.raw", "my site.raw", "a:b.raw"):
        (tmp_path / "files" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "files" / name).touch()
    (tmp_path / "files/tree").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(SYSTEMCTL)
    (tmp_path / "bin/systemctl").chmod(0o755)
    return tmp_path


def complete(place: Path, line: str, *, word_breaks: str = WORD_BREAKS) -> set[str]:
    """What bash offers at the end of `line`: the text that readline would put in place of the last word."""
    words = [part for word in re.split(" +", line) for part in re.split(f"({word_breaks})", word) if part]
    if line.endswith(" "):
        words.append("")
    script = (
        f"set -u; source {shlex.quote(str(BASH))}; COMP_WORDS=({shlex.join(words)}); COMP_LINE={shlex.quote(line)}; "
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_POINT=${#COMP_LINE}; complete -p unit-confext; "
        '_unit_confext unit-confext "" ""; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {"PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place)}
    command = ["bash", "--norc", "-c", script]
    done = subprocess.run(
        command, cwd=place / "files", env=environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stderr == ""
    first, *offered = done.stdout.splitlines()
    assert first == "complete -F _unit_confext unit-confext"
    return {reply for reply in offered if reply}


@pytest.mark.parametrize("line", ["unit-confext ", "unit-confext --json short ", "unit-confext --json=short -q "])
def test_verbs(place: Path, line: str) -> None:
    assert complete(place, line) == {verb.name for verb in VERBS}


def test_beginning_of_a_verb(place: Path) -> None:
    assert complete(place, "unit-confext ver") == {"verify"}


def test_options_before_the_verb(place: Path) -> None:
    assert complete(place, "unit-confext -") == EVERY_OPTION
    assert complete(place, "unit-confext --no-") == {"--no-pager", "--no-legend"}


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_options_of_a_verb(place: Path, verb: str) -> None:
    assert complete(place, f"unit-confext {verb} -") == options_of(verb)
    assert complete(place, f"unit-confext --json=off {verb} x -q -") == options_of(verb)


@pytest.mark.parametrize(("option", "name"), WITH_VALUE, ids=[name for _, name in WITH_VALUE])
def test_values(place: Path, option: Option, name: str) -> None:
    """An option that takes a value gets nothing but values, and neither verbs nor options."""
    offered = complete(place, f"unit-confext {name} ")
    if option.choices:
        assert offered == set(option.choices)
    assert offered
    assert not offered & {*EVERY_OPTION, *(verb.name for verb in VERBS)}
    if name.startswith("--"):
        assert complete(place, f"unit-confext {name}=") == offered
        whole = complete(place, f"unit-confext {name}=", word_breaks="$^")
        assert whole == {f"{name}={value}" for value in offered}


@pytest.mark.parametrize("name", [name for option in OPTIONS for name in option.names if not option.value])
def test_switches_take_no_value(place: Path, name: str) -> None:
    assert complete(place, f"unit-confext {name} ") == {verb.name for verb in VERBS}
    if name.startswith("--"):
        assert complete(place, f"unit-confext {name}=") == set()


def test_values_mean_something(place: Path) -> None:
    assert complete(place, "unit-confext build --allow=") == set(Allow)
    architectures = {one.architecture for one in TYPES.values()} - {""}
    assert complete(place, "unit-confext build --architecture=") <= architectures
    for text in complete(place, "unit-confext verify --image-policy="):
        policy.parse(text)
    assert complete(place, "unit-confext --json=p") == {"pretty"}


@pytest.mark.parametrize("verb", ["status", "which", "cat", "diff"])
def test_units(place: Path, verb: str) -> None:
    assert complete(place, f"unit-confext {verb} ") == {"nginx.service", "foo@bar.service", r"a\\x2db.service"}
    assert complete(place, f"unit-confext {verb} ng") == {"nginx.service"}
    # What readline takes for the last word is what stands behind the "@".
    assert complete(place, f"unit-confext {verb} foo@") == {"bar.service"}
    assert complete(place, f"unit-confext {verb} foo@b") == {"bar.service"}
    assert complete(place, f"unit-confext {verb} foo@b", word_breaks="$^") == {"foo@bar.service"}
    assert complete(place, rf"unit-confext {verb} a\\x") == {r"a\\x2db.service"}


def test_units_that_are_not_loaded(place: Path) -> None:
    offered = {"nginx.service", "foo@bar.service", r"a\\x2db.service", "other.service"}
    assert complete(place, "unit-confext list ") == offered


def test_operands_end(place: Path) -> None:
    """Each verb gets as many operands as it takes."""
    assert complete(place, "unit-confext status nginx.service foo@") == {"bar.service"}
    assert complete(place, "unit-confext diff nginx.service ") == set()
    files = {f"/etc/{name}" for name in os.listdir("/etc")}
    assert complete(place, "unit-confext which foo@bar.service ") == files
    assert complete(place, "unit-confext which foo@bar.service /etc/pass") >= {"/etc/passwd"}
    assert complete(place, "unit-confext which foo@bar.service /etc/passwd ") == set()
    assert complete(place, "unit-confext cat nginx.service /etc/passwd /etc/grou") >= {"/etc/group"}
    assert complete(place, "unit-confext build tree ") == set()
    assert complete(place, "unit-confext nonsense ") == set()


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_images(place: Path, verb: str) -> None:
    assert complete(place, f"unit-confext {verb} ") == {"site.raw", "my site.raw", "a:b.raw", "tree"}
    assert complete(place, f"unit-confext {verb} --trust x a:") == {"b.raw"}
    assert complete(place, f"unit-confext {verb} site.raw s") == {"site.raw"}


def test_tree(place: Path) -> None:
    assert complete(place, "unit-confext build ") == {"tree"}
    assert complete(place, "unit-confext build -o s") == {"site.raw"}


def test_nothing_that_was_typed_is_executed(place: Path) -> None:
    """Words come as they were typed, and one that is used as the key of an array is a way to run a command."""
    for typed in ("-$(touch${IFS}ran)", "a[$(touch${IFS}ran)]", "`touch${IFS}ran`"):
        complete(place, f"unit-confext {typed} {typed}")
        complete(place, f"unit-confext {typed}=")
    assert not (place / "files/ran").exists()


def test_bash_is_clean() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", str(BASH)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# ---- zsh, as text ----


def zsh_options() -> dict[str, tuple[set[str], str]]:
    """Each option in the zsh completion, with its verbs, none for all, and what it completes as its value."""
    found: dict[str, tuple[set[str], str]] = {}
    text = re.sub(r" \\\n +", " ", ZSH.read_text())
    # Those of some verbs only; `(exclusive ones)` and `{both spellings}`, or `*` and one; [help]; what its value is.
    line = re.compile(
        r"""^ *(?:_unit-confext_for (?P<verbs>'[^']+'|\w+) )?["']"""
        r"""(?:\([^)]*\)'\{(?P<both>[^}]+)\}'|(?:\([^)]*\)|\*)?(?P<one>--[a-z-]+)=?)"""
        r"""\[[^]]*\](?::[^:]+:(?P<value>.*))?["']$""",
        re.M,
    )
    for match in line.finditer(text):
        verbs = set((match["verbs"] or "").strip("'").split())
        for name in (match["both"] or match["one"]).split(","):
            found[name.rstrip("=+")] = (verbs, match["value"] or "")
    return found


def test_zsh_has_the_same_options() -> None:
    found = zsh_options()
    assert {name: verbs for name, (verbs, _) in found.items()} == {
        name: set(option.verbs) for option in OPTIONS for name in option.names
    }
    for option in OPTIONS:
        for name in option.names:
            value = found[name][1]
            assert bool(value) == bool(option.value), name
            if option.choices:
                assert value == f"({' '.join(option.choices)})"
    assert found["--allow"][1] == f"({' '.join(Allow)})"


def test_zsh_has_the_same_verbs() -> None:
    text = ZSH.read_text()
    table = re.search(r"^local -a verbs=\(\n(.*?)^\)", text, re.M | re.S)
    assert table is not None
    found = [shlex.split(line)[0].split(":", 1) for line in table[1].splitlines()]
    assert found == [[verb.name, verb.help] for verb in VERBS]
    cases = re.search(r"^case \$verb in\n(.*?)^esac", text, re.M | re.S)
    assert cases is not None
    operands = [name for names in re.findall(r"^ +([a-z|]+)\)", cases[1], re.M) for name in names.split("|")]
    assert sorted(operands) == sorted(verb.name for verb in VERBS)
    assert text.startswith("#compdef unit-confext\n")


def test_zsh_understands_it() -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    done = subprocess.run(["zsh", "-n", str(ZSH)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
