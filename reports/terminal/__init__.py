"""What commands print: progress, tables and the summary of a result."""
