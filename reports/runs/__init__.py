"""Follow run folders from outside: read them while they are written, list and compare them. Nothing is changed."""
