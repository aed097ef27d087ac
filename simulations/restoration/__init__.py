"""Repairing pictures with the score."""
