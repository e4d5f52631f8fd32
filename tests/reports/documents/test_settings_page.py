"""The page of settings."""

from __future__ import annotations

import re
from pathlib import Path

from etrm.config import list_settings
from etrm.setting_texts import to_toml
from reports.documents.settings_page import main, page
from reports.markdown import escape
from tests.mirrors import ROOT

DOCUMENT = ROOT / "docs" / "settings.md"


def test_the_page_is_up_to_date(tmp_path: Path) -> None:
    """`make pages` writes it."""
    main(["--out", str(tmp_path / "settings.md")])
    assert (tmp_path / "settings.md").read_text("utf-8") == page() == DOCUMENT.read_text("utf-8")


def test_the_page_has_a_row_for_every_setting() -> None:
    rows = re.findall(r"^\|`+ ?([\w.]+)=(.*?) ?`+\|(.*?)\|(.*)\|$", page(), flags=re.MULTILINE)
    assert rows == [
        (
            name,
            to_toml(setting.default),
            escape(setting.values.replace(">= ", "≥").replace("<= ", "≤")),
            escape(setting.description),
        )
        for name, setting in list_settings().items()
    ]
