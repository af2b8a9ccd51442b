"""What leaves: checkpoints, model cards and files of other runtimes, each proven to agree."""
