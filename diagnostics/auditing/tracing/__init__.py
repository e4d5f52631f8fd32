"""The record of a step: every torch function it calls, where its numbers come from, and what is drawn and read."""
