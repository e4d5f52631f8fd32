"""Training: the loop, what a run is made of, and what is measured of it.

- `trainer`: the loop; `train_state`: what it carries from step to step, and saves
- `recipe`: the functions of a run, which faults replace; `faults`: the faults, a file per hypothesis
- `slots`, `micro_batches`, `loss`, `optim`, `ema`, `freeze_schedule`, `inner_steps`: the parts of a step
- `metrics`, `metric_log`, `step_times`: the numbers of a step
- `execution`: how a step is computed; `monitoring`: how it is checked
- `scoring`: how good a trained model is, with what is fitted to a task at test time
"""

from etrm.installation import check_origin

# Training uses the toolkit: another package of that name fails here and not at its first use.
check_origin("diagnostics")
