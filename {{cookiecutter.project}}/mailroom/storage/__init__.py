"""Storages that remember which handler comes next for each sender."""
