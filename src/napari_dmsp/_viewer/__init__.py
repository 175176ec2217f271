"""What napari shows: a panel a task over a shared one, one that trains priors, and samples."""
