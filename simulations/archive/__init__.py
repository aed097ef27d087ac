"""Run directories and configurations, by name."""
