"""What is read off a subject or its runs: the context's path, gradients, rows, known answers, findings."""
