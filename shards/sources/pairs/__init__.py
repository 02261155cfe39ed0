"""What the layouts have in common: which files a folder holds, which mask belongs to which image, and what lists name."""
