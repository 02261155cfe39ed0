"""What sets of millions of samples take: sets written by the format's own functions, opened and read once."""
