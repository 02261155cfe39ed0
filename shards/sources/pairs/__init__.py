"""What the layouts share: which files a folder holds, which mask belongs to which image, what lists name."""
