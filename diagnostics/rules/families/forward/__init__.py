"""Rules of the forward pass: which calls happen, in which mode, and what they compute for nothing."""
