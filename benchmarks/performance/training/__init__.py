"""Training steps of whole runs, timed in processes with this code or that of an earlier commit."""
