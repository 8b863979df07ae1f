"""The draft of a config: what the columns of raw files look like, and which part each of them could play."""
