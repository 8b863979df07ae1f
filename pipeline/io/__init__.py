"""How files are written, locked and read, on a disk or in an object store, and how what failed is tried again."""
