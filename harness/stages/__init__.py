"""One kind of stage a file: model, prompts, preferences, generate, train, evaluate."""
