"""Where the numbers of a step come from: a table of origins, and a file for each subject that has its own."""
