"""Every choice in one place. Each can be set by an environment variable, which goes before it.

The variable has the same name in capitals: `RECEIVER_PORT=8900 salmon start`. A value that cannot
be is refused at start; the rules are in `config/environment.py`.
"""

from config import environment

# The one domain whose mail we take, and the lists in it; any other address is refused with 550.
mail_domain = "{{ cookiecutter.mail_domain }}"
lists = ["news"]

# How mail comes in: "lmtp" from the mail server in front, or "smtp" when spoken to directly.
receiver_protocol = "lmtp"
receiver_host = "127.0.0.1"
receiver_port = 8823
max_message_size = 10 * 1024 * 1024  # octets

# How mail goes out. `salmon log --no-daemon` listens on 8825 and keeps it in run/queue instead of sending it.
relay_host = "127.0.0.1"
relay_port = 8825
relay_username = ""
relay_password = ""  # a secret: set RELAY_PASSWORD instead
relay_starttls = False

# % if cookiecutter.state_storage == "postgresql"
# Where the states are kept: a URL. A password stands in STATE_DATABASE only, never in this file.
state_database = "{{ cookiecutter.__state_database }}"
state_connect_timeout = 3  # seconds, until a mail is answered 451 because the server is not there
state_statement_timeout = 5  # seconds, until it is because the server does not answer

# % else
# Where the states are kept.
state_database = "{{ cookiecutter.__state_database }}"

# % endif
# % if cookiecutter.state_storage == "postgresql"
# What signs the tokens of confirmation addresses: a secret that all machines share, so set SECRET_KEY.
# % else
# What signs the tokens of confirmation addresses; empty: the key in run/secret_key, made at the
# first start. Several machines must share one: set SECRET_KEY.
# % endif
secret_key = ""

# How many replies an address gets in an hour, at most, and who reads the mail to postmaster@ and
# abuse@: an address outside of `mail_domain`.
replies_per_hour = 20
postmaster = "{{ cookiecutter.__postmaster }}"

# Where senders are now whose state has another name, or none: {"CONFIRMING": "ASKED", "OLD": "START"}.
renamed_states = {}

# The modules that handle mail.
handlers = ["app.handlers.subscription", "app.handlers.postmaster"]

environment.apply(globals())
