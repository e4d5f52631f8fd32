"""The networks, written a second time: plain functions of their weights."""
