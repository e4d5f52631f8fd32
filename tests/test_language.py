"""Texts have plain words instead of private terms, and every argument is described by a noun."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("cli.py", "etrm", "reports", "diagnostics", "benchmarks", "examples")
PAGES = ("README.md", "CONTRIBUTING.md", "docs")
AVOID = {
    r"mend(ed|s|ing)?": "fix",
    r"foreign (demo\w*|pairs?|contexts?)": "mismatched demonstrations",
    r"(is|are|was|were) (told|said)": "is reported, is printed",
    r"stands? behind": "is downstream of",
    r"the subject('s)?": "the run under test",
    r"beside": "next to, in addition to",
    r"(speaks?|silence)": "fires, does not fire",
    r"planted (answers?|evaluations?)": "known-answer predictions",
    r"at the (most|least)": "at most, at least",
    r"as given": "unchanged",
    r"in place of": "instead of",
    r"turned round": "negated",
    r"go(es|ing)? on": "resumes, continues",
    r"(queries|tasks) (that are |are )?asked": "evaluated",
    r"without a word": "silently",
    r"held against": "compared with",
    r"passed over": "skipped, ignored",
    r"for ever": "forever",
    r"foretold": "predicted",
    r"seed 00\d": "the title of the document",
}
"""Patterns of words to avoid, and what to write instead."""
ALLOWED = {
    '"beside"': "the name of a field in earlier results",
    "formula.resize-beside-another": "a stable error code",
    "it is trained on other rows than it speaks of": "a sentence of an earlier version, by which baselines are read",
    "rows ask to end and are made to go on": "a sentence of an earlier version, by which baselines are read",
}
"""Lines in which a word has its ordinary sense: a part of the line, and the reason."""
TEXTS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
PATTERN = re.compile(rf"\b(?:{'|'.join(AVOID)})\b", re.IGNORECASE)


def find_files(names: tuple[str, ...], suffix: str) -> list[Path]:
    """Return the files with a suffix among some files and in some folders."""
    found: list[Path] = []
    for path in (ROOT / name for name in names):
        found += sorted(path.rglob(f"*{suffix}")) if path.is_dir() else [path] if path.exists() else []
    return found


def read_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page, or of the strings and comments of a module, with their numbers."""
    source = path.read_text("utf-8")
    if path.suffix == ".md":
        yield from enumerate(source.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in TEXTS:
            yield from enumerate(token.string.splitlines(), token.start[0])


NOT_A_NOUN = re.compile(
    r" +[a-z]\w*(, \w+)*: (of|for|in|to|as|by|that|from|which|what|where|how|at|also)\b.*[^,(\[]"
)
"""A line of a docstring that describes an argument without a noun, for instance ``seeds: of every arm``."""


def find_nounless_arguments(path: Path) -> list[str]:
    """Return the descriptions of arguments and attributes that begin without a noun."""
    lines = enumerate(path.read_text("utf-8").splitlines(), 1)
    return [f"{path}:{number}: {line.strip()}" for number, line in lines if NOT_A_NOUN.fullmatch(line)]


def find_wrong_words(path: Path) -> list[str]:
    """Return the places in a file that use a word to avoid, with what to write instead."""
    if not PATTERN.search(path.read_text("utf-8")):  # few have one anywhere, and to tokenise takes longer
        return []
    found = []
    for number, line in read_texts(path):
        for match in PATTERN.finditer(line):
            if not any(part in line for part in ALLOWED):
                instead = next(good for bad, good in AVOID.items() if re.fullmatch(bad, match[0], re.I))
                found.append(f"{path}:{number}: {match[0]!r} (write: {instead}): {line.strip()}")
    return found


FILES = [*find_files(CODE, ".py"), *find_files(PAGES, ".md")]


# One test for all files: a test per file would take longer to collect and report than to run.


def test_every_text_has_plain_words() -> None:
    assert len(FILES) > 600
    assert [found for path in FILES for found in find_wrong_words(path)] == []


def test_every_argument_is_described_by_a_noun() -> None:
    modules = find_files(CODE, ".py")
    assert [found for path in modules for found in find_nounless_arguments(path)] == []


def test_a_description_without_a_noun_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""Text.\n\n    seeds: of every arm.\n    arms: the arms of a screen.\n"""\n', "utf-8")
    assert [place.split(": ")[0] for place in find_nounless_arguments(module)] == [f"{module}:3"]


def test_a_wrong_word_is_found_in_every_kind_of_text_and_nowhere_else(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        '"""It was mended."""\nmended = 1  # mended\nx = f"it goes on {x}"\ny = "amended"\n', "utf-8"
    )
    assert [place.split(": ")[0] for place in find_wrong_words(module)] == [
        f"{module}:{line}" for line in (1, 2, 3)
    ]
    page = tmp_path / "page.md"
    page.write_text("plain\nas given\n", "utf-8")
    assert [place.split(": ")[0] for place in find_wrong_words(page)] == [f"{page}:2"]
