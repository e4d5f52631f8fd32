"""Recording: what one training step did, as records.

- `recorder`: listens while a step runs
- `calls`: the forward calls, and the gradients that come back to them
- `updates`: the gradients of parameters, and how far an optimiser moves them
- `terms`: the same for each term of the loss
- `inspection`: what the model itself shows, such as tied weights, buffers and hidden modules
- `finished_steps`, `waiting_steps`, `readout`: from measured tensors to records, many steps in one transfer
- `process_group`: one step on several processes
"""
