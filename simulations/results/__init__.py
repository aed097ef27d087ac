"""What a finished run is good for: sample, export, evaluate."""
