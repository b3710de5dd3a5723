"""What a program calls instead of the command line."""
