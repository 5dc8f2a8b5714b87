"""A value that cannot be used ends the process with one line that says what would do."""

import pytest

from mailroom.settings import ADDRESS, DOMAIN, HOST, KEY, LOGIN, NAMES, TEXT, Env, refuse, validate


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """The environment of an application's process: not that of a test, in a folder of its own."""
    monkeypatch.delenv("PYTEST_VERSION")
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def read(kind, default, **options):
    """Return the setting `VALUE` as a `config/settings.py` reads it that has no other."""
    env = Env()
    value = getattr(env, kind)("VALUE", default, **options)
    env.seal()
    return value


def refusal(kind, default, **options):
    with pytest.raises(SystemExit) as end:
        read(kind, default, **options)
    return end.value.code


def port(env):
    return env.int("RECEIVER_PORT", 8823, validate=validate.Range(0, 65535))


def test_environment_overrides_a_line_of_the_env_file(environment, tmp_path):
    (tmp_path / ".env").write_text("RECEIVER_PORT=1\n")
    assert port(Env()) == 1

    environment.setenv("RECEIVER_PORT", "2")
    assert port(Env()) == 2


def test_env_file_of_a_parent_folder_is_not_read(environment, tmp_path):
    (tmp_path / ".env").write_text("RECEIVER_PORT=1\n")
    (tmp_path / "application").mkdir()
    environment.chdir(tmp_path / "application")

    assert port(Env()) == 8823


def test_binary_env_file_ends_the_process_with_one_line(environment, tmp_path):
    (tmp_path / ".env").write_bytes(b"RECEIVER_PORT=\xff\n")

    with pytest.raises(SystemExit, match=r"^ERROR: \.env cannot be read: .*$"):
        Env()


def test_wrong_value_in_env_file_is_named(environment, tmp_path):
    (tmp_path / ".env").write_text("VALUE=smtp\n")

    assert refusal("int", 8823) == "ERROR: VALUE 'smtp' is not a valid integer; for example VALUE=8823"


def test_tests_see_neither_environment_nor_env_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("RECEIVER_PORT=1\n")
    monkeypatch.setenv("RECEIVER_PORT", "2")
    assert port(Env()) == 8823

    monkeypatch.setenv("TEST_RECEIVER_PORT", "3")
    assert port(Env()) == 3


RULES = {"domain": DOMAIN, "host": HOST, "address": ADDRESS(outside="example.com")}
GOOD = [
    ("domain", "EXAMPLE.com", "EXAMPLE.com"),
    ("domain", "xn--nave-6pa.example", "xn--nave-6pa.example"),
    ("domain", "1.2.3.4", "1.2.3.4"),
    ("host", "localhost", "localhost"),
    ("host", "Relay.Example", "Relay.Example"),
    ("host", "127.0.0.1", "127.0.0.1"),
    ("host", "::1", "::1"),
    ("address", "o'neil+x@Mail.Example", "o'neil+x@Mail.Example"),
    ("bool", "yes", True),
    ("bool", "Yes", True),
    ("bool", "0", False),
]
BAD = [
    *(("domain", value) for value in ["", "a b", ".*", "a..b", "-a", "a-", "a" * 64, "a.b" * 90, "a.example\n", "::1"]),
    *(("domain", value) for value in ["na\xefve", "a@b", "a_b"]),
    *(("host", value) for value in ["", "a b", "127.0.0.1:25", "http://x", "1:2", "[::1]"]),
    *(("address", value) for value in ["", "root", "@localhost", "a b@c", "a@b@c", "a@b c", "a,b@c.example", "a@\n"]),
    *(("bool", value) for value in ["maybe", "ja"]),
]


DEFAULTS = {"bool": False, "address": "root@localhost"}


def read_as(kind):
    """Return the setting `VALUE`: a `bool`, or a text with one of the `RULES`."""
    default = DEFAULTS.get(kind, "localhost")
    return read("str", default, validate=RULES[kind]) if kind in RULES else read(kind, default)


@pytest.mark.parametrize("kind, text, value", GOOD)
def test_good_value_is_used_in_its_usual_form(environment, kind, text, value):
    environment.setenv("VALUE", text)

    assert read_as(kind) == value


@pytest.mark.parametrize("kind, text", BAD, ids=ascii)
def test_bad_value_ends_the_process_with_one_line(environment, kind, text):
    environment.setenv("VALUE", text)
    with pytest.raises(SystemExit) as end:
        read_as(kind)

    said, default = end.value.code, DEFAULTS.get(kind, "localhost")
    assert said.startswith(f"ERROR: VALUE {text!r} ") and "\n" not in said
    assert said.endswith((f"; for example VALUE={default}", f"; for example {default}"))


@pytest.mark.parametrize(
    "rule, good, bad",
    [
        (TEXT, ["run/states", "postgresql://localhost/mail"], ["", "a\0b", "a\nb", "\ud800"]),
        (LOGIN, ["", "p ssword"], ["a\nb", "\ud800", "p\xe4ssword"]),
        (KEY, ["", "k" * 32], ["a\nb", "k" * 31, "k" * 40 + "\n"]),
        (
            NAMES("[a-z]+", "must be letters"),
            [["news"], ["news", "dev"]],
            [[], ["news", "news"], ["a b"], ["news", ""]],
        ),
    ],
)
def test_rule_of_a_text_setting_accepts_good_and_refuses_bad_values(rule, good, bad):
    for value in good:
        rule(value)
    for value in bad:
        with pytest.raises(validate.ValidationError):
            rule(value)


@pytest.mark.parametrize(
    "kind, default, options, said",
    [
        (
            "int",
            70000,
            {"validate": validate.Range(0, 65535)},
            "70000 must be greater than or equal to 0 and less than",
        ),
        ("int", "smtp", {}, "'smtp' is not a valid integer"),
        ("list", "news", {}, "'news' is not a valid list"),
        ("list", ["News"], {"subcast": str.lower}, "['News'] must be written as ['news']"),
        ("str", "EXAMPLE:com", {"validate": DOMAIN}, "'EXAMPLE:com' must be a host name"),
        (
            "str",
            "a@News.example",
            {"validate": ADDRESS(outside="news.Example")},
            "'a@News.example' must be an address outside of news.example",
        ),
        ("str", "", {"validate": TEXT}, "'' must be printable text"),
    ],
)
def test_invalid_default_ends_the_process_with_one_line(environment, kind, default, options, said):
    """Whoever edits `config/settings.py` changes defaults."""
    assert refusal(kind, default, **options).startswith(f"ERROR: VALUE {said}")


def test_example_in_the_error_of_a_setting_is_a_valid_value(environment):
    assert refusal("str", "", validate=TEXT).endswith("must be printable text")
    assert "; for example root@localhost.localdomain" in refusal("str", "a@localhost", validate=ADDRESS("localhost"))
    environment.setenv("VALUE", "x")
    assert refusal("list", [25, 26], subcast=int).endswith("has an invalid value in place 1; for example VALUE=25,26")


def test_setting_without_default_must_be_set(environment):
    assert refusal("str", ...) == "ERROR: VALUE '' must be set"


def test_all_methods_of_environs_work(environment):
    """Settings of the owner's own may be of any kind that `environs` knows."""
    environment.setenv("PERIOD", "60s")
    env = Env()
    assert env.timedelta("PERIOD").total_seconds() == 60
    assert env.path("FOLDER", "run/pictures") == "run/pictures"
    assert env.log_level("LEVEL", "INFO") == "INFO"
    assert env.float("RATIO", 1) == 1
    assert env.json("TABLE", {"a": 1}) == {"a": 1}
    assert env.str("NOTHING", None) is None
    env.seal()


@pytest.mark.parametrize(
    "name, value, shown",
    [
        ("RELAY_PASSWORD", "s3cret", "(not shown)"),
        ("SECRET_KEY", "s3cret", "(not shown)"),
        ("API_TOKEN", "s3cret", "(not shown)"),
        ("SECRET_KEY", "", "''"),
        ("STATE_DATABASE", "postgresql://mail:s3cret@host/mail", "'postgresql://***@host/mail'"),
        ("STATE_DATABASE", "postgresql://host/mail?password=s3cret&x=1", "'postgresql://host/mail?password=***&x=1'"),
    ],
)
def test_secrets_are_not_shown(name, value, shown):
    with pytest.raises(SystemExit) as end:
        refuse(name, value, "must be another,\nreally")

    assert end.value.code == f"ERROR: {name} {shown} must be another, really"


@pytest.mark.parametrize(
    "name", ["", "a b", "app/handlers", ".x", "..", "tests..x", "1.2", "tests.nowhere", "nowhere.x"]
)
def test_handlers_that_are_no_module_end_the_process_with_one_line(room, name):
    with pytest.raises(SystemExit) as end:
        room.load([name])

    assert end.value.code == f"ERROR: HANDLERS {[name]!r} cannot be used: there is no module {name}".rstrip()


def test_relay_starttls_of_version_0_1_is_refused(environment):
    environment.setenv("RELAY_STARTTLS", "yes")

    assert refusal("int", 8823) == "ERROR: RELAY_STARTTLS 'yes' is called RELAY_TLS now"
