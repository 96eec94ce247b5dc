"""Training on pairs: token ids, audit, opponent, batches, policy, state."""
