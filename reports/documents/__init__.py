"""Pages and figures of docs/ that are generated from the source or from runs."""
