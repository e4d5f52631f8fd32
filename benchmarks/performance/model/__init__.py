"""How fast our model trains and answers, and why."""
