"""The command `etrm`, also as `python -m etrm` for torchrun."""

import sys
from typing import NoReturn

from etrm.errors import InstallationError
from etrm.installation import check_installation


def main() -> NoReturn:
    """Check the installation, then import and run the command line."""
    try:
        check_installation()
    except InstallationError as error:
        sys.stderr.write(
            f"error: {error}\n"
        )  # `reports` may be the wrong package, so its console is not used
        sys.exit(2)
    from cli import main as run

    run()


if __name__ == "__main__":
    main()
