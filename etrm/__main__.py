"""The command `etrm`, also as `python -m etrm` for torchrun."""

import sys
from typing import NoReturn

from etrm.errors import InstallationError
from etrm.installation import check_installation


def main() -> NoReturn:
    """Check the installation, then run the command line, which must not be imported before."""
    try:
        check_installation()
    except InstallationError as error:
        sys.stderr.write(f"error: {error}\n")  # the console of `reports` may be the foreign one
        sys.exit(2)
    from cli import main as run

    run()


if __name__ == "__main__":
    main()
