"""What the model itself shows, without a call: tied weights, buffers, hidden modules, adapters."""
