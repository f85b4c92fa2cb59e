"""Programs that tasks bring along: their bundles, their runs, what they leave behind."""
