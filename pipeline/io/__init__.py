"""How files are written, locked and tried again."""
