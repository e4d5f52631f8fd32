"""Probes that read recorded operations: what losses, softmaxes and activations receive, and their gradients."""
