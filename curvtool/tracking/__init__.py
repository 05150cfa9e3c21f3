"""The same analyses over the checkpoints of a training run."""
