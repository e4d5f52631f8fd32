"""An evaluation, written a second time, and what is fitted to a task at test time."""
