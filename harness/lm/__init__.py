"""A language model scored and decoded: groups that share a prompt, prefix trees, replicas."""
