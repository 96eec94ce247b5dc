"""What people look at: tables, pages, plots, LaTeX, bundles, Hub cards."""
