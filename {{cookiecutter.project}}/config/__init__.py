"""The configuration. Salmon imports `config.settings` first, then `config.boot`."""

import mailroom  # noqa: F401  before any file is made: it replaces the umask of Salmon's daemon, which is 0
