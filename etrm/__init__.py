"""Train encoder-based TRMs on ARC, and find out why one does not learn."""

__version__ = "0.1.0"
