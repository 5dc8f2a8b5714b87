"""The settings. An environment variable of the same name overrides each, and so does a line in `.env`.

    RECEIVER_PORT=8900 salmon start

Tests ignore both: there, `TEST_RECEIVER_PORT` overrides `receiver_port`.
"""

from mailroom.settings import ADDRESS, DOMAIN, HOST, KEY, LOGIN, NAMES, TEXT, Env, validate

env = Env()

# The domain whose mail the application takes, and the lists in it. Any other address is refused with 550.
# % if cookiecutter.mail_domain | length > 63
mail_domain = env.str(
    "MAIL_DOMAIN",
    "{{ cookiecutter.mail_domain | lower }}",
    validate=DOMAIN,
)
# % else
mail_domain = env.str("MAIL_DOMAIN", "{{ cookiecutter.mail_domain | lower }}", validate=DOMAIN)
# % endif
lists = env.list(
    "LISTS",
    ["news"],
    subcast=lambda name: name.strip().lower(),
    validate=NAMES(
        r"(?!(postmaster|abuse|mailer-daemon)$|.*-(subscribe|unsubscribe|archive|confirm(-[a-z0-9]+)?)$)"
        r"[a-z0-9]([a-z0-9._-]{0,14}[a-z0-9])?",
        "must be names of at most 16 letters, digits, dots, hyphens or underscores, not reserved (postmaster, abuse)"
        " and not ending like a command (-subscribe)",
    ),
)

# Incoming mail.
receiver_host = env.str("RECEIVER_HOST", "127.0.0.1", validate=HOST)
receiver_port = env.int("RECEIVER_PORT", 8823, validate=validate.Range(0, 65535))
max_message_size = env.int("MAX_MESSAGE_SIZE", 10 * 1024 * 1024, validate=validate.Range(1024, 2**31 - 1))  # octets
handler_threads = env.int("HANDLER_THREADS", 20, validate=validate.Range(0, 1000))  # for handlers marked @nolocking

# Outgoing mail. Set a password in RELAY_PASSWORD or in .env, never in this file.
relay_host = env.str("RELAY_HOST", "127.0.0.1", validate=HOST)
relay_port = env.int("RELAY_PORT", 8825, validate=validate.Range(1, 65535))
relay_username = env.str("RELAY_USERNAME", "", validate=LOGIN)
relay_password = env.str("RELAY_PASSWORD", "", validate=LOGIN)
relay_tls = env.bool("RELAY_TLS", False)
replies_per_hour = env.int("REPLIES_PER_HOUR", 20, validate=validate.Range(1, 10**6))  # to one address

# Where the states are stored{% if cookiecutter.state_storage == 'postgresql' %}: a URL. Set one with a password in STATE_DATABASE or in .env, never in this file{% endif %}.
# % if cookiecutter.__state_database | length > 59
state_database = env.str(
    "STATE_DATABASE",
    "{{ cookiecutter.__state_database }}",
    validate=TEXT,
)

# % else
state_database = env.str("STATE_DATABASE", "{{ cookiecutter.__state_database }}", validate=TEXT)

# % endif
# Signs confirmation addresses. {% if cookiecutter.state_storage == 'postgresql' %}Set SECRET_KEY to the same key on every machine{% else %}If it is empty, the key in run/secret_key is used{% endif %}.
secret_key = env.str("SECRET_KEY", "", validate=KEY)

# Who gets the mail to postmaster@ and abuse@: an address outside of `mail_domain`.
postmaster = env.str("POSTMASTER", "{{ cookiecutter.__postmaster }}", validate=ADDRESS(outside=mail_domain))

# The modules with handlers.
handlers = env.list("HANDLERS", ["app.handlers.subscription", "app.handlers.postmaster"], subcast=str.strip)

# States renamed since the last release: {"CONFIRMING": "ASKED", "OLD": "START"}.
renamed_states = {}

# The log goes to stderr: the terminal, systemd's journal, or the daemon's logs/salmon.err.
logging = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": "INFO", "handlers": ["stderr"]},
}

env.seal()  # ends the start with one line when a value is invalid
