"""What `operate.py` does, a command a module."""
