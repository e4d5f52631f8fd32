"""What one training step did: calls, gradients, parameters and movement, as records."""
