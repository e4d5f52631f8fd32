"""Audits: a training step is run a few times and judged.

- `audit`: the function; `default_checks`: what every audit checks
- `probes`: checks of one property each; `probes.operations`: those of what torch functions receive and return
- `tracing`, `observed_step`, `replay`: a repeated step, with all of its operations
- `responses`, `response_assertion`: whether the loss changes with the weights of a module
- `first_steps`, `trace_checks`: the checks that a monitor makes too, because they repeat no step
- `case_file`, `scripts`, `named_models`: what the command audits: a function, a script as it is, a model of a library
"""
