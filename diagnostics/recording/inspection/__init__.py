"""What is read off the model itself, without its calls."""
