"""`SQLAlchemyStorage` is a dictionary that forgets START as well, for the texts that any database holds."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, multiple, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from salmon.server import SMTPError

from tests.baking import import_baked
from tests.storages.test_state_machine import ANY_TEXT, ODD, VARIANTS, StorageMachine

senders, keys = StorageMachine.senders, StorageMachine.keys


def is_possible(text):
    return len(text) <= 255 and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text)


ALMOST_ANY_TEXT = st.one_of(st.sampled_from(ODD), ANY_TEXT).filter(is_possible)
IMPOSSIBLE = st.one_of(st.sampled_from(ODD), ANY_TEXT, st.just("x" * 3000), st.none()).filter(
    lambda text: text is None or not is_possible(text)
)


class SQLAlchemyMachine(StorageMachine):
    key_text = ALMOST_ANY_TEXT

    @initialize(target=senders)
    def some_senders(self):
        return multiple("a@b.example", "A@b.example", "")

    @rule(target=senders, text=ALMOST_ANY_TEXT)
    def new_sender(self, text):
        return text

    @rule(target=senders, text=senders.filter(bool), variant=st.sampled_from(VARIANTS))
    def similar_sender(self, text, variant):
        return variant(text) if is_possible(variant(text)) else text

    @rule(target=keys, text=keys, variant=st.sampled_from(VARIANTS))
    def similar_key(self, text, variant):
        return variant(text) if is_possible(variant(text)) else text

    @rule(text=IMPOSSIBLE, key=keys, sender=senders)
    def refuse(self, text, key, sender):
        for row in [(text, sender, "SUBSCRIBED"), (key, text, "SUBSCRIBED"), (key, sender, text)]:
            with pytest.raises(SMTPError) as refused:
                self.storage.set(*row)
            assert refused.value.code == 554


@pytest.fixture(scope="session")
def sqlalchemy_storage(baked):
    return import_baked(baked("postgresql"), "app.model.state_storage")


def test_on_sqlite(sqlalchemy_storage, mail_states):
    class Machine(SQLAlchemyMachine):
        def open(self):
            self.path.parent.mkdir(exist_ok=True)
            return sqlalchemy_storage.SQLAlchemyStorage(f"sqlite:///{self.path}")

    Machine.mail_states = mail_states
    run_machine(Machine, settings=settings(max_examples=20, deadline=None))


def test_on_postgresql(sqlalchemy_storage, mail_states, postgresql):
    url = postgresql.new_database()

    class Machine(SQLAlchemyMachine):
        def open(self):
            storage = sqlalchemy_storage.SQLAlchemyStorage(url)
            if not self.expected:
                storage.clear()
            return storage

        @rule()
        def open_another(self):
            if len(self.opened) < 3:
                self.opened.append(self.open())

    Machine.mail_states = mail_states
    run_machine(Machine, settings=settings(max_examples=50, deadline=None))
