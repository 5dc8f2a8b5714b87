"""The tests; what this machine's environment sets for an application that runs is not for them."""

import os

from config.environment import RULES

for name in RULES:
    os.environ.pop(name.upper(), None)
