"""What starts everything; nothing imports this room."""
