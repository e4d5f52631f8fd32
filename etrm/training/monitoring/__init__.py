"""What a run measures and checks of itself while it trains."""
