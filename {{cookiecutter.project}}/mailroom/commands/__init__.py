"""The commands of `operate.py`."""
