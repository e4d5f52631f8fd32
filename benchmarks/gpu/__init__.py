"""What training costs on a GPU: ``python -m benchmarks.gpu`` runs every case and prints a JSON line for each."""
