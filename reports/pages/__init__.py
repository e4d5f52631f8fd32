"""Pages of a report as markdown."""
