"""What the distributions say of themselves: metadata, installation commands, shipped files, and cited documents."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import etrm

ROOT = Path(__file__).parents[1]
MAIN: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
TOOLKIT: dict[str, Any] = tomllib.loads((ROOT / "diagnostics/pyproject.toml").read_text("utf-8"))
SHIPPED = ("etrm", "diagnostics", "reports")
TEXTS = ("*.md", "*.toml", "Makefile", "*.py", "*.yml", "*.sbatch", "*.txt")
FOLDERS = (*SHIPPED, "docs", "examples", "tests", ".ci")


def texts() -> Iterator[Path]:
    """Every text of the project that a person reads or that is run, less the built ones."""
    for pattern in TEXTS:
        yield from ROOT.glob(pattern)
        for folder in FOLDERS:
            for path in sorted((ROOT / folder).rglob(pattern)):
                parts = path.relative_to(ROOT).parts
                if not {"build", "golden"} & set(parts) and not any(p.endswith(".egg-info") for p in parts):
                    yield path


def extras(project: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = project["project"]["optional-dependencies"]
    return found


# pip install lines

THIRD_PARTY = {
    requirement
    for project in (MAIN, TOOLKIT)
    for listed in (project["project"]["dependencies"], *extras(project).values())
    for requirement in listed
}
PINNED = {line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line[:1] != "#"}
GIT = r"git\+(https://<host>/<owner>/etrm|\$\{\{ vars\.ETRM_REPOSITORY \}\})"
FORMS = (
    (MAIN, r"\.(?:\[(?P<extras>[\w,]+)\])?"),
    (MAIN, rf"etrm-arc(?:\[(?P<extras>[\w,]+)\])? @ {GIT}"),
    (TOOLKIT, r"\./diagnostics(?:\[(?P<extras>[\w,]+)\])?"),
    (TOOLKIT, rf"etrm-diagnostics(?:\[(?P<extras>[\w,]+)\])? @ {GIT}#subdirectory=diagnostics"),
)
TAKE_A_VALUE = ("-c", "-r")
HERE = Path(__file__).name


def fault_of(requirement: str) -> str | None:
    """Why a requirement does not install what the project needs; None if it does."""
    if requirement in THIRD_PARTY | PINNED | {"pytest"}:
        return None
    for project, form in FORMS:
        found = re.fullmatch(form, requirement)
        if found:
            named = set((found["extras"] or "").split(",")) - {""}
            unknown = named - extras(project).keys()
            return f"unknown extras {sorted(unknown)}" if unknown else None
    return "neither a requirement of the project nor a form of installing it"


def requirements(line: str) -> list[str]:
    """What a line with `pip install` installs."""
    command = re.split(r"`|\s#\s|\s\|", line.partition("pip install ")[2])[0]
    words = shlex.split(command)
    valued = {place + 1 for place, word in enumerate(words) if word in TAKE_A_VALUE}
    return [word for place, word in enumerate(words) if word[0] != "-" and place not in valued]


def installing() -> list[tuple[str, str]]:
    """Every file and line with `pip install`; of code, its strings. Tests may quote parts of one."""
    found = []
    for path in texts():
        name, text = str(path.relative_to(ROOT)), path.read_text("utf-8")
        if name.startswith("tests/") or "pip install " not in text:
            continue
        parts = [one for _, one in strings(ast.parse(text))] if path.suffix == ".py" else [text]
        lines = [line.strip() for part in parts for line in part.splitlines()]
        found += [(name, line) for line in lines if "pip install " in line]
    return found


def strings(tree: ast.Module) -> Iterator[tuple[ast.Constant, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node, node.value


def test_every_pip_install_line_installs_what_it_says() -> None:
    lines = installing()
    files = {file for file, _ in lines}
    assert {"README.md", "Makefile", "docs/installation.md", "etrm/investigation/runs/launchers.py"} <= files
    wrong = [
        f"{file}: {requirement}: {fault}"
        for file, line in lines
        for requirement in requirements(line)
        if (fault := fault_of(requirement))
    ]
    assert not wrong, "\n".join(wrong)
    assert all(requirements(line) for _, line in lines)


@pytest.mark.parametrize(
    "line",
    [
        "pip install etrm",  # a package of other authors
        "`pip install 'etrm[cluster]'`",
        "pip install etrm-arc",  # not on a package index
        "pip install '.[clutser]'",
        "pip install './diagnostics[cluster]'",  # an extra of the other distribution
        'pip install "etrm-diagnostics @ git+https://<host>/<owner>/etrm"',  # builds the other distribution
        "pip install 'submitit>=0.1'",
    ],
)
def test_a_wrong_pip_install_line_is_found(line: str) -> None:
    assert [requirement for requirement in requirements(line) if fault_of(requirement)]


def test_no_text_names_an_extra_of_the_other_package_called_etrm() -> None:
    found = [
        str(path)
        for path in texts()
        if path.name != HERE and re.search(r"\betrm\[[a-z]", path.read_text("utf-8"))
    ]
    assert not found


# metadata


def test_the_distributions_agree_with_the_package_and_with_each_other() -> None:
    main, toolkit = MAIN["project"], TOOLKIT["project"]
    assert main["version"] == toolkit["version"] == etrm.__version__
    assert main["requires-python"] == toolkit["requires-python"]
    assert toolkit["dependencies"] == [one for one in main["dependencies"] if one.startswith("torch")]
    assert toolkit["entry-points"] == main["entry-points"]
    assert (
        MAIN["tool"]["setuptools"]["package-data"]["diagnostics"]
        == (TOOLKIT["tool"]["setuptools"]["package-data"]["diagnostics"])
    )
    assert extras(TOOLKIT).items() <= extras(MAIN).items()
    assert (ROOT / "diagnostics/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_every_extra_is_documented() -> None:
    page = (ROOT / "docs/installation.md").read_text("utf-8")
    rows = re.findall(r"^\| ?`([\w-]+)` ?\| ?(both|`etrm-arc`) ?\|", page, flags=re.MULTILINE)
    both = set(extras(TOOLKIT))
    assert dict(rows) == {name: "both" if name in both else "`etrm-arc`" for name in extras(MAIN)}


def test_every_file_of_a_package_is_shipped() -> None:
    data = MAIN["tool"]["setuptools"]["package-data"]
    left = {
        str(path.relative_to(ROOT))
        for package in SHIPPED
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
        if not {"build", "etrm_diagnostics.egg-info"} & set(path.parts)
        if not any(path in set((ROOT / package).glob(pattern)) for pattern in data.get(package, ()))
    }
    assert left == {f"diagnostics/{name}" for name in ("LICENSE", "README.md", "pyproject.toml")}


def test_every_folder_with_code_is_a_package() -> None:
    """What has no ``__init__.py`` is left out of the wheels: build folders are meant, and nothing else."""
    folders = {
        path.parent
        for package in SHIPPED
        for path in (ROOT / package).rglob("*.py")
        if "build" not in path.parts
    }
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


# documents

INVENTED = ("tests/test_packaging.py", "tests/test_affected.py", "tests/benchmarks/mutation/test_run.py")
"""Files that cite files of their own invention."""
CITED = re.compile(
    r"(?<![\w/.(-])((?:docs|tests|examples|diagnostics|etrm|reports)/[\w/.-]*\w\.(?:md|py|toml|json|png|sbatch))"
)
LINKED = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def test_every_cited_and_every_linked_file_exists() -> None:
    missing = []
    for path in texts():
        if path.relative_to(ROOT).as_posix() in INVENTED:
            continue
        text = path.read_text("utf-8")
        targets = [ROOT / name for name in CITED.findall(text)]
        targets += [path.parent / name for name in LINKED.findall(text)] if path.suffix == ".md" else []
        missing += [f"{path.relative_to(ROOT)}: {target}" for target in targets if not target.exists()]
    assert not missing, "\n".join(missing)


def test_what_a_user_reads_at_run_time_cites_no_document_that_is_not_shipped() -> None:
    """Docstrings of modules and functions may; messages, descriptions, rule pages and the help of commands may not."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in (
            ROOT / "cli.py",
            *(file for name in SHIPPED for file in sorted((ROOT / name).rglob("*.py"))),
        )
        if "build" not in path.parts and "docs/" in (source := path.read_text("utf-8"))
        for line, text in _shown(ast.parse(source), commands="commands" in path.parts)
        if "docs/" in text
    ]
    assert found == []


def _shown(tree: ast.Module, *, commands: bool) -> Iterator[tuple[int, str]]:
    """The strings of a module with their lines, less its docstrings, unless they are the help of commands."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    silent = set()
    for node in ast.walk(tree):
        for statement in getattr(node, "body", ()) if isinstance(node, documented) else ():
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if is_text and not (commands and isinstance(node, ast.FunctionDef)):
                silent.add(statement.value)
    yield from ((node.lineno, text) for node, text in strings(tree) if node not in silent)
