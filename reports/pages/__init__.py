"""Pages of a report as markdown, and the parts that they share."""
