"""What a run folder recorded, judged as evidence before any new run is made."""
