"""Generate pages and figures of docs/ from the source code or from runs."""
