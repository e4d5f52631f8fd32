"""How arms become finished runs: jobs, launchers, budgets, the pretrained decoder, the cache."""
