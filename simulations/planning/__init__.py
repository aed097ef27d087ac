"""What a run would cover and what it would cost."""
