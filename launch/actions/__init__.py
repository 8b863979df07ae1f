"""What each command does and prints: a file per verb. `launch/commands.py` has the table that names them."""
