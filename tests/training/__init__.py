"""Tests of training: by several trainers, and what goes on from a checkpoint."""
