"""MT-Bench: its questions, their answers by a checkpoint, the verdicts on answers, and what ratings add up to."""
