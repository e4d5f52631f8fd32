"""How a step is computed: compiled, in lower precision, on several processes, with samples drawn ahead."""
