"""What somebody else's artifacts, the authors' own above all, tell about how they were made, held against a run of ours."""
