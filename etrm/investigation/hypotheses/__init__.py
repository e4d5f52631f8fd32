"""H1 to H7 and, about the symbolic solver, N1 to N5, a module each; and what several of them share."""
