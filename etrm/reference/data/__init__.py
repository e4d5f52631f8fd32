"""Rows of training and evaluation, written a second time: tokens, loaders, and which tasks there are."""
