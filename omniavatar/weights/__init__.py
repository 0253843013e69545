"""Files on disk to networks, ready to run."""
