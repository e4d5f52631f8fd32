"""The command `etrm`, also as `python -m etrm` for torchrun."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Check the installation, then import and run the command line; Ctrl-C during the imports exits with code 130."""
    try:
        from etrm.installation import exit_unless_installed

        exit_unless_installed()
        from cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)

    run()


if __name__ == "__main__":
    main()
