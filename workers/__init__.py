"""Training, evaluation and everything that runs on a cluster."""
