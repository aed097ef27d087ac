"""One run on this machine: processes and progress."""
