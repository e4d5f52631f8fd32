"""The two screenshots of the README, from one real investigation: `make screenshots` (a minute; needs chromium).

    python docs/figures/screenshots.py [FOLDER]

FOLDER holds the investigation (default: runs/screenshots); one that is finished there is shown and not run again.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
COLUMNS = 100
COMMAND = ("investigate", "--preset", "smoke", "--inject", "cached-context", "--until-root-cause")


def main(folder: Path) -> None:
    """Run the command, and write terminal.svg and report.png next to this file."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("error: chromium is not on the PATH; the picture of the report needs it")
    terminal(folder)
    page = (folder / "report.html").resolve().as_uri()
    options = ("--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1100,1000")
    subprocess.run([browser, *options, f"--screenshot={HERE / 'report.png'}", page], check=True)


def terminal(folder: Path) -> None:
    """What the command prints, with its colours, as a picture of a terminal."""
    etrm = [sys.executable, "-m", "etrm", *COMMAND]
    colours = os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)}
    out = subprocess.run(
        [*etrm, "--out", str(folder)], env=colours, stdout=subprocess.PIPE, text=True, check=True
    )
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(f"$ etrm {' '.join(COMMAND)}", markup=False, highlight=False)
    console.print(Text.from_ansi(out.stdout.rstrip()), soft_wrap=True)
    (HERE / "terminal.svg").write_text(console.export_svg(title="etrm"), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "runs/screenshots"))
