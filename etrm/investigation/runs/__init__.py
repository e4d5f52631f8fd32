"""How arms become finished runs: jobs, launchers, budgets, the pretrained decoder, and what is kept for the next investigation."""
