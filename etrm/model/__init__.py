"""The recursive core, the encoders, and adaptive computation over a persistent carry."""
