"""Put the application together for the tests, and clear states and mail before each of them."""

import config.testing  # noqa: F401  it pins MemoryStorage

pytest_plugins = ["mailroom.testing.plugin"]
