"""How files are written, locked and read, and how a failed access is tried again."""
