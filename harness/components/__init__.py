"""What a recipe names: one component a file, and the file's name is its name in a recipe."""
