"""Sources of instruction data: where prompts and real responses come from."""
