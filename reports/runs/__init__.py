"""Run folders followed from outside: read while they are written, listed, compared, drawn; never changed."""
