"""One file per family of rules: causes, checks, rules with their texts, and the `FAMILY` that lists them."""
