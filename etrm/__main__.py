"""The command `etrm`, also as `python -m etrm` for torchrun."""

from typing import NoReturn

from etrm.installation import exit_unless_installed


def main() -> NoReturn:
    """Check the installation, then run the command line, which must not be imported before."""
    exit_unless_installed()
    from cli import main as run

    run()


if __name__ == "__main__":
    main()
