"""Rules: what can be wrong in training steps, and how each finding names its cause.

- `rule`, `options`: what a rule is made of
- `families`: the rules, a file per family, grouped by what they watch
- `registry`: all rules of the toolkit; `loading`: a rule of the user by name
- `tally`, `run_history`: when an observation becomes a finding
- `folding`: which findings are consequences of another one
- `page`, `documents`: the documentation of a rule, made from the rule
"""

from diagnostics.rules.loading import load

__all__ = ["load"]
