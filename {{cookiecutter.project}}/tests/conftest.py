"""Put the application together for the tests, and clear states and mail before each test."""

import config.testing  # noqa: F401  with MemoryStorage

pytest_plugins = ["mailroom.testing.plugin"]
