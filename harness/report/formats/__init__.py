"""A run in the formats of other tools: model cards, results and samples."""
