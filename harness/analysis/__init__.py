"""What the scores of a run say: differences, claims, what may be compared, the data of the tables."""
