"""What the calls of modules in one step have in common: a file for each thing that is looked for."""
