"""The tests of a generated application notice when its code is wrong."""

import pytest

from tests.application import Application


@pytest.mark.parametrize(
    "tests, path, right, wrong",
    [
        ("handlers", "app/handlers/subscription.py", "        return SUBSCRIBED", "        return CONFIRMING"),
        (
            "handlers",
            "app/handlers/subscription.py",
            'answer(message, "goodbye.msg", list_name)\n        return START',
            "return START",
        ),
        ("handlers", "app/handlers/subscription.py", "{module_name}:{ADDRESS.match(message.To)[1]}", "{module_name}"),
        ("mail", "app/mail/receiver.py", 'return "552 5.3.4 The message is too big"', "return None"),
        ("handlers", "app/mail/delivery.py", "550, ", "450, "),
        ("mail", "app/mail/receiver.py", 'return "451 4.3.0 The mail could', 'return None and "'),
        ("mail", "app/model/mail_states.py", "mail.set[key, sender] = state", "self.storage.set(key, sender, state)"),
        ("mail", "config/routes.py", "host=re.escape(settings.mail_domain)", "host=settings.mail_domain"),
        ("model", "app/model/state_storage.py", "if value is None", "if not value"),
        ("mail", "app/mail/manners.py", '("bulk", "list", "junk", "auto', '("bulk", "list", "auto'),
        ("mail", "app/mail/manners.py", '== "multipart/report"', "is None"),
        ("mail", "app/mail/delivery.py", "attached_states().changes()", "()"),
        ("mail", "app/mail/reply.py", "replies += 1", "replies += 0"),
        ("mail", "app/mail/relay.py", '("To", "Cc", "Bcc")', '("To", "Cc")'),
        ("model", "app/model/state_storage.py", "if state == ROUTE_FIRST_STATE", "if state == None"),
        ("model", "app/model/tokens.py", "and now < expiry", "or now < expiry"),
        (
            "model",
            "app/model/state_storage.py",
            "SQLiteStorage(settings.state_database, protected=True)",
            "SQLiteStorage('elsewhere')",
        ),
        ("mail", "config/testing.py", "MailStates(MemoryStorage())", "MailStates(_Sticky())"),
    ],
)
def test_its_own_tests_fail_when_its_code_is_wrong(bake, tests, path, right, wrong):
    application = Application(bake())
    source = application.folder / path
    text = source.read_text()
    assert right in text
    if "_Sticky" in wrong:
        text = text.replace(
            "\nRouter.STATE",
            "\n\nclass _Sticky(MemoryStorage):\n    def clear(self):\n        pass\n\n\nRouter.STATE",
            1,
        )
    source.write_text(text.replace(right, wrong))

    result = application.run("python", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{tests}")

    assert result.returncode == 1, result.stdout
