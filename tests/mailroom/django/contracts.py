"""What a site of Django relies on, whatever its database."""

from contextlib import suppress

from asgiref.sync import async_to_sync
from django.db import transaction

from mailroom.django.models import State
from mailroom.testing.contract import ALICE, BOB, KEY


def orders(storage):
    return sorted(State.objects.using(storage.using).filter(key="order").values_list("sender", flat=True))


def order(storage, text):
    State.objects.using(storage.using).create(key="order", sender=text, state="PAID")


class SiteContract:
    """Subclass beside the contract of the storage; the fixture is the same."""

    def test_transaction_of_the_site_keeps_or_undoes_the_mail_within_it(self, storage):
        ran = []
        storage.open()
        with suppress(ZeroDivisionError), transaction.atomic(storage.using):
            with storage.transaction(ALICE):
                storage.set(KEY, ALICE, "SUBSCRIBED")
                transaction.on_commit(lambda: ran.append("undone"), using=storage.using)
            raise ZeroDivisionError
        assert list(storage) == ran == []
        with transaction.atomic(storage.using):
            order(storage, "before")
            with storage.transaction(ALICE):
                storage.set(KEY, ALICE, "SUBSCRIBED")
                transaction.on_commit(lambda: ran.append("kept"), using=storage.using)
            with suppress(ZeroDivisionError), storage.transaction(BOB):
                storage.set(KEY, BOB, "SUBSCRIBED")
                order(storage, "undone")
                raise ZeroDivisionError
            order(storage, "after")
            assert ran == []
        assert ran == ["kept"]
        assert orders(storage) == ["after", "before"]
        assert (storage.get(KEY, ALICE), storage.get(KEY, BOB)) == ("SUBSCRIBED", "START")

    def test_async_to_sync_belongs_to_the_mail(self, storage):
        async def work():
            await State.objects.using(storage.using).acreate(key="order", sender="async", state="PAID")

        with suppress(ZeroDivisionError), storage.transaction(ALICE):
            async_to_sync(work)()
            raise ZeroDivisionError
        assert orders(storage) == []
        with storage.transaction(ALICE):
            async_to_sync(work)()
        assert orders(storage) == ["async"]
