"""The output of commands: progress, tables, and the summary of a result."""
