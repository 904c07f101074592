# SPDX-License-Identifier: LGPL-2.1-or-later
"""The linters, the type checker and the rules of the house, as tests.

A linter that is not installed is skipped here; `make test` and `make lint` install them all.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
TREES = ("generator", "helpers", "tests")
MODULE_LINES_MAX = 400

# Where packages are downloaded from is the business of the machine that does it.
FORBIDDEN = re.compile(r"\b(?:pypi\.org|pythonhosted\.org|(?:deb|ftp|security|snapshot)\.debian\.org|crates\.io)\b")


def _files() -> list[Path]:
    """The files of the project: in a checkout what git has or would have, elsewhere everything that is not built."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True).stdout
        found = [CHECKOUT / os.fsdecode(name) for name in listed.split(b"\0") if name]
    except (FileNotFoundError, subprocess.CalledProcessError):
        built = {"build", ".git", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
        found = [path for path in CHECKOUT.rglob("*") if not built & set(path.relative_to(CHECKOUT).parts)]
    return sorted(path for path in set(found) if path.is_file() and not path.is_symlink())


def _outside_golden(path: Path) -> bool:
    """Golden trees are data of the tests: file systems with odd names."""
    return CHECKOUT / "tests/golden" not in path.parents or path.parent == CHECKOUT / "tests/golden"


FILES = [path for path in _files() if _outside_golden(path)]
MODULES = [path for path in FILES if path.suffix == ".py"]


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        return re.match(rb"#!.*\b(?:ba)?sh\b", file.readline()) is not None


SCRIPTS = [path for path in FILES if _is_shell(path)]


def _name(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def _check(*argv: str) -> None:
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(argv)}\n{done.stdout}{done.stderr}", pytrace=False)


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


LAUNCHERS = ("helpers/restack.in", "helpers/unit-confext.in")


def test_ruff() -> None:
    _need("ruff")
    _check(sys.executable, "-m", "ruff", "check", "--quiet", "--output-format=concise", *TREES, *LAUNCHERS)
    _check(sys.executable, "-m", "ruff", "format", "--quiet", "--check", *TREES)


def test_codespell() -> None:
    _need("codespell_lib")
    texts = [_name(path) for path in FILES if path.suffix in (".py", ".md", ".in", ".sh", ".conf", ".catalog", ".toml")]
    _check(sys.executable, "-m", "codespell_lib", *texts)


def test_mypy() -> None:
    _need("mypy")
    _check(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *TREES)


def test_all_tests_are_found_together() -> None:
    """The tests that need a booted system are only run with all the others: what keeps them from that shows up here."""
    _check(sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider")


@pytest.mark.parametrize("script", SCRIPTS, ids=_name)
def test_shell_syntax(script: Path) -> None:
    shell = "bash" if b"bash" in script.read_bytes().partition(b"\n")[0] else "sh"
    _check(shell, "-n", str(script))


def test_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    _check("shellcheck", "--severity=warning", *map(str, SCRIPTS))


def test_scripts_and_modules_were_found() -> None:
    """The tests above would pass without a word if they looked in the wrong place."""
    shipped = {"generator/unit-confext-generator.in", "helpers/restack-if-changed.in", "helpers/cancel-unless-done.in"}
    assert {".ci/run", "tests/lab/boot.sh", *shipped} <= set(map(_name, SCRIPTS))
    assert {"generator/confext_generator/cli.py", "helpers/confext_helpers/swap/plan.py"} <= set(map(_name, MODULES))


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_module(module: Path) -> None:
    text = module.read_text()
    if not text:
        assert module.name == "__init__.py"
        return
    assert ast.get_docstring(ast.parse(text)), "a module says what it is for"
    lines = text.removeprefix("# SPDX-License-Identifier: LGPL-2.1-or-later\n").count("\n")
    assert lines <= MODULE_LINES_MAX, f"{lines} lines: split it"


def test_licence() -> None:
    """Every file that says what is done says under which licence, as reuse.software wants it."""
    kinds = {".py", ".sh", ".in", ".conf", ".catalog", ".sysusers"}
    files = [path for path in FILES if path.suffix in kinds or path.name in ("Makefile", "run", "_unit-confext")]
    texts = {_name(path): path.read_text().split("\n", 2)[:2] for path in files if path.stat().st_size}
    assert len(texts) > 200
    assert [name for name, lines in texts.items() if "# SPDX-License-Identifier: LGPL-2.1-or-later" not in lines] == []


def test_nothing_of_the_machine_it_was_written_on() -> None:
    """No file names a place to download from, or the place of this checkout."""
    found = []
    for path in _files():
        for number, line in enumerate(path.read_bytes().decode(errors="replace").splitlines(), 1):
            if str(CHECKOUT) + "/" in line or (FORBIDDEN.search(line) and path != Path(__file__)):
                found.append(f"{_name(path)}:{number}: {line.strip()}")
    assert found == []


@pytest.mark.parametrize("module", [path for path in MODULES if "tests" not in path.parts], ids=_name)
def test_what_is_opened_is_closed_by_a_context_manager(module: Path) -> None:
    """Nothing is closed where an error passes by, by hand, and forgotten the next time."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) == "BaseException"):
            assert not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)), f"line {node.lineno}"


def test_versions_agree() -> None:
    import confext_generator.constants
    import confext_helpers

    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert {project["version"]} == {confext_generator.constants.VERSION, confext_helpers.__version__}


def test_documents_name_what_there_is() -> None:
    """Make targets in the README exist; docs/architecture.md names no module that is gone."""
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.M))
    # In the text as `make X`, in an example at the start of a line.
    named = set(re.findall(r"(?:`|^\s+(?:# )?)make ([a-z-]+)", (CHECKOUT / "README.md").read_text(), re.M))
    assert named
    assert named <= targets

    # It may leave out packages in front.
    text = (CHECKOUT / "docs/architecture.md").read_text()
    told = set(re.findall(r"(?<![\w/.*])[\w/]+\.py\b", text))
    assert "stage/targets.py" in told
    assert [name for name in told if not any(f"/{_name(path)}".endswith(f"/{name}") for path in MODULES)] == []
