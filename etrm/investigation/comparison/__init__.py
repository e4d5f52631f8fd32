"""Runs compared with runs: registered contrasts, short runs on few tasks, training dynamics."""
