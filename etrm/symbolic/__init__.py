"""The symbolic solver: formulas over grids, their evaluation, and the search for one that explains demonstrations."""
