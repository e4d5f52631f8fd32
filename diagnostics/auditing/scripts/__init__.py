"""The audit of a training script as it is: the models it calls, the optimisers that step, and its steps."""
