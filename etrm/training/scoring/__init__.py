"""How good a run is: its model as a predictor, its score on held-out tasks, the overfit gate."""
