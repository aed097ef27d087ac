"""Figures of runs, of coverage and of policies."""
