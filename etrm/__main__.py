"""The command `etrm`, also as `python -m etrm` for torchrun."""

from typing import NoReturn

from etrm.installation import exit_unless_installed


def main() -> NoReturn:
    """Check the installation, then import and run the command line."""
    exit_unless_installed()
    from cli import main as run

    run()


if __name__ == "__main__":
    main()
