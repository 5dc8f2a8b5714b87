"""What a person sees and does in the admin. Django's own `manage.py test` can run this in any site that has the app."""

import re
import time
from unittest import skipUnless
from unittest.mock import patch

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connections, router
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from salmon.routing import Router

from mailroom import handlers, outbox
from mailroom.django import admin
from mailroom.django.models import Outbox, Outgoing, State
from mailroom.storage import StorageError

NEWS, DEV = "app.handlers.subscription:news", "app.handlers.subscription:dev"
ROWS = [
    (NEWS, "alice@people.example", "SUBSCRIBED"),
    (DEV, "alice@people.example", "CONFIRMING"),
    (NEWS, "bob@people.example", "CONFIRMING"),
    (NEWS, "=1+1@evil.example", "CONFIRMING"),
]
connection = connections[router.db_for_read(State)]


def may(name, *permissions):
    """Return a new user who may enter the admin and has these permissions."""
    user = get_user_model().objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


@pytest.mark.usefixtures("pages")
@override_settings(SECURE_SSL_REDIRECT=False)
class Pages(TestCase):
    """A page that lists one `model`, and what an operator does there."""

    databases = "__all__"

    def setUp(self):
        self.page = reverse(f"admin:mail_states_{self.model}_changelist")
        self.client.force_login(get_user_model().objects.create_superuser("operator"))

    def listed(self, **query):
        page = self.client.get(self.page, query)
        self.assertEqual(page.status_code, 200)
        return page.context["cl"].result_list

    def act(self, action, *rows, **data):
        chosen = [row.pk for row in rows]
        return self.client.post(self.page, {"action": action, "_selected_action": chosen, **data}, follow=True)


class StatePages(Pages):
    model = "state"

    @classmethod
    def setUpTestData(cls):
        for key, sender, state in ROWS:
            State.objects.create(key=key, sender=sender, state=state)

    def rows(self, **query):
        """Return what the page lists, as pairs of sender and key."""
        return [(state.sender, state.key) for state in self.listed(**query)]

    def test_the_newest_change_comes_first(self):
        self.assertEqual(self.rows()[0], ("=1+1@evil.example", NEWS))

    def test_filters_by_state_and_key(self):
        self.assertEqual(self.rows(state="SUBSCRIBED"), [("alice@people.example", NEWS)])
        self.assertEqual(self.rows(key=DEV), [("alice@people.example", DEV)])
        self.assertEqual(self.rows(key=DEV, state="SUBSCRIBED"), [])

    def test_search_by_beginning_and_part_of_an_address(self):
        self.assertEqual(self.rows(q="Bob"), [("bob@people.example", NEWS)])
        self.assertEqual(self.rows(q="alice@people.example", key=NEWS), [("alice@people.example", NEWS)])
        with patch.object(admin, "MAX_FOUND", 1):  # of those that the filter has left
            self.assertEqual(self.rows(q="alice", key=DEV), [("alice@people.example", DEV)])
        self.assertEqual(self.rows(q="people"), [])
        self.assertEqual(len(self.rows(q="*people")), 3)
        self.assertEqual(self.rows(q="@evil"), [("=1+1@evil.example", NEWS)])
        self.assertEqual(self.rows(q="%"), [])

    def test_senders_are_counted_by_state(self):
        def counts(**query):
            page = self.client.get(self.page, query)
            return [display for _, display in page.context["cl"].filter_specs[0].lookup_choices]

        with patch.object(Router, "ORDER", []):
            self.assertEqual(counts(), ["CONFIRMING (3)", "SUBSCRIBED (1)"])
            self.assertEqual(counts(key=DEV), ["CONFIRMING (1)"])
        with patch.object(Router, "ORDER", []), patch.object(admin, "MAX_COUNTED", 2):
            self.assertEqual(counts(), ["CONFIRMING (2+)", "SUBSCRIBED (1)"])
            with override_settings(USE_THOUSAND_SEPARATOR=True):
                page = self.client.get(self.page)
                self.assertContains(page, "CONFIRMING (2+)</a>")
                self.assertContains(page, "2+ states")

    @skipUnless(connection.vendor == "sqlite", "the plans are SQLite's")
    def test_nothing_is_counted_or_sorted_in_full(self):
        for query in ({}, {"state": "CONFIRMING"}, {"key": NEWS}, {"key": NEWS, "state": "CONFIRMING"}, {"q": "bob"}):
            with CaptureQueriesContext(connection) as asked:
                self.rows(**query)
            statements = [query["sql"] for query in asked if "mail_states_state" in query["sql"]]
            self.assertGreater(len(statements), 5)
            for statement in statements:
                with connection.cursor() as cursor:
                    plan = " ".join(step for *_, step in cursor.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall())
                self.assertRegex(plan, "(SCAN|SEARCH) mail_states_state USING", statement)
                if "USING INTEGER PRIMARY KEY" not in plan:  # these are rows that were found already
                    self.assertNotIn("TEMP B-TREE", plan, statement)
                if "COUNT(" in statement:
                    self.assertIn("LIMIT", statement)

    def test_states_without_a_handler_are_marked(self):
        known = {"app.handlers.subscription": ["CONFIRMING"]}
        with patch.object(handlers, "states_by_module", lambda: known), patch.object(Router, "ORDER", ["a route"]):
            for query in ({}, {"key": NEWS}):
                page = self.client.get(self.page, query)
                self.assertContains(page, "SUBSCRIBED: no handler", count=2)  # of the row, and in the counts
                self.assertNotContains(page, "CONFIRMING: no handler")
            change = reverse("admin:mail_states_state_change", args=[State.objects.get(state="SUBSCRIBED").pk])
            self.assertContains(self.client.get(change), "SUBSCRIBED: no handler")

    def test_without_routes_no_state_is_marked(self):
        with patch.object(Router, "ORDER", []):
            self.assertNotContains(self.client.get(self.page), "no handler")

    def test_back_to_start_asks_first(self):
        bob = State.objects.get(sender="bob@people.example")
        self.assertContains(self.act("back_to_start", bob), f"bob@people.example, CONFIRMING ({NEWS})")
        self.assertTrue(State.objects.filter(pk=bob.pk).exists())
        self.assertContains(self.act("back_to_start", bob, confirmed="yes"), "Back to START: 1.")
        self.assertFalse(State.objects.filter(pk=bob.pk).exists())
        self.assertEqual(State.objects.count(), len(ROWS) - 1)

    def test_back_to_start_names_senders_whose_mail_is_being_handled(self):
        with patch.object(admin.DjangoStorage, "lock", side_effect=StorageError):
            answer = self.act("back_to_start", *State.objects.filter(key=DEV), confirmed="yes")
        self.assertContains(answer, f"Busy, please try again: alice@people.example, CONFIRMING ({DEV}).")
        self.assertEqual(State.objects.count(), len(ROWS))

    def test_back_to_start_leaves_a_state_that_changed_meanwhile(self):
        lock = admin.DjangoStorage.lock

        def slow_lock(storage, here):  # a mail had it first
            State.objects.filter(sender=here.sender).update(state="SUBSCRIBED")
            return lock(storage, here)

        bob = State.objects.get(sender="bob@people.example")
        with patch.object(admin.DjangoStorage, "lock", slow_lock):
            self.assertContains(self.act("back_to_start", bob, confirmed="yes"), "Back to START: 0.")
        bob.refresh_from_db()
        self.assertEqual(bob.state, "SUBSCRIBED")

    def test_back_to_start_has_a_transaction_of_its_own_where_each_request_is_one(self):
        def note_depth(*arguments):
            depths.append(len(connection.savepoint_ids))

        depths, reset = [], patch.object(admin.StateAdmin, "_reset", note_depth)
        with reset, patch.dict(connection.settings_dict, ATOMIC_REQUESTS=True):
            self.act("back_to_start", State.objects.first(), confirmed="yes")
        self.assertEqual(depths, [len(connection.savepoint_ids)])

    @override_settings(USE_TZ=False)
    def test_the_page_works_in_a_site_without_time_zones(self):
        self.assertEqual(len(self.rows()), len(ROWS))

    def test_back_to_start_refuses_too_many(self):
        with patch.object(admin, "MAX_CHOSEN", 1):
            self.assertContains(self.act("back_to_start", *State.objects.all(), confirmed="yes"), "At most 1 at once")
        self.assertEqual(State.objects.count(), len(ROWS))

    def test_user_with_view_permission_changes_nothing(self):
        self.client.force_login(may("reader", "view_state"))
        self.assertEqual(len(self.rows()), len(ROWS))
        self.assertNotContains(self.client.get(self.page), "back_to_start")
        self.act("back_to_start", *State.objects.all(), confirmed="yes")
        self.assertEqual(State.objects.count(), len(ROWS))

    def test_nobody_adds_edits_or_deletes_a_row(self):
        state = State.objects.first()
        self.assertEqual(self.client.get(reverse("admin:mail_states_state_add")).status_code, 403)
        self.assertEqual(self.client.post(reverse("admin:mail_states_state_delete", args=[state.pk])).status_code, 403)
        change = reverse("admin:mail_states_state_change", args=[state.pk])
        self.assertContains(self.client.get(change), state.sender)
        self.assertEqual(self.client.post(change, {"state": "OTHER"}).status_code, 403)


class OutboxPages(Pages):
    model = "outbox"

    @classmethod
    def setUpTestData(cls):
        now = time.time()
        for number, (recipient, due, tries, answer) in enumerate(
            [
                ("fresh@people.example", now + 40, 0, None),
                ("greylisted@people.example", now + 900, 2, "451 4.7.1 Greylisted"),
                ("nobody@people.example", None, 1, "550 5.1.1 No such user"),
                ("stuck@people.example", now - 3600, 0, None),
            ]
        ):
            mail = Outgoing.objects.create(id=number, sender="", data=b"Subject: one\r\n\r\nHi.", created=now - 7300)
            Outbox.objects.create(mail=mail, recipient=recipient, due=due, tries=tries, answer=answer)
        Outbox.objects.create(mail_id=1, recipient="other@people.example", due=now + 900, tries=1, answer="451 Later")

    def recipients(self, **query):
        """Return the names of those who are listed."""
        return [row.recipient.partition("@")[0] for row in self.listed(**query)]

    def shown(self, name):
        """Return what the page says of a recipient, as text."""
        page = self.client.get(self.page, {"q": name}).content.decode()
        return [re.sub("<.*?>", "", cell) for cell in re.findall("<t[hd] class=.field-.*?</t[hd]>", page)]

    def test_outbox_says_how_long_mail_has_waited_and_why(self):
        self.assertEqual(self.recipients(), ["fresh", "greylisted", "nobody", "stuck", "other"])
        ages = {name: self.shown(name)[1] for name in self.recipients()}
        self.assertEqual(set(ages.values()), {"2\xa0hours"})
        self.assertEqual(self.shown("fresh")[2:], ["0", "now", "-"])
        self.assertEqual(self.shown("nobody")[2:], ["1", "never: refused for good", "550 5.1.1 No such user"])
        self.assertEqual(self.shown("stuck")[2:], ["0", "when server and relay run", "-"])
        tries, at, answer = self.shown("greylisted")[2:]
        self.assertEqual((tries, answer), ("2", "451 4.7.1 Greylisted"))
        self.assertRegex(at, r"^20\d\d-\d\d-\d\d \d\d:\d\d:\d\d")

    def test_mail_that_was_refused_for_good_stands_out(self):
        self.assertContains(self.client.get(self.page), 'class="mail-states-trouble"', count=2)  # due, and answer
        self.assertContains(self.client.get(self.page, {"q": "nobody"}), 'class="mail-states-trouble"', count=2)
        self.assertEqual(self.recipients(refused=1), ["nobody"])
        self.assertEqual(self.recipients(refused=0), ["fresh", "greylisted", "stuck", "other"])

    def test_octets_of_a_mail_are_not_read_to_show_it(self):
        change = reverse("admin:mail_states_outbox_change", args=[Outbox.objects.first().pk])
        with CaptureQueriesContext(connection) as asked:
            self.assertEqual(len(self.recipients(q="people")), 5)
            self.assertContains(self.client.get(change), "fresh@people.example")
        statements = [query["sql"] for query in asked if "mail_states_outgoing" in query["sql"]]
        self.assertGreater(len(statements), 1)
        for statement in statements:
            self.assertNotRegex(statement, r"\bdata\b")

    def test_retry_makes_due_what_was_set_back_or_refused_and_leaves_what_is_being_sent(self):
        self.assertContains(self.act("retry", *Outbox.objects.all()), "Due now: 3.")
        self.assertLess(Outbox.objects.get(recipient__startswith="nobody").due, time.time())
        self.assertEqual(
            {row.recipient.partition("@")[0] for row in Outbox.objects.filter(due__gt=time.time())}, {"fresh"}
        )

    def test_drop_asks_first_and_deletes_a_mail_with_its_last_recipient(self):
        greylisted, nobody = Outbox.objects.filter(recipient__regex="^(greylisted|nobody)").order_by("pk")
        self.assertContains(self.act("drop", greylisted, nobody), "Nobody gets it.")
        self.assertEqual(Outbox.objects.count(), 5)
        self.assertContains(self.act("drop", greylisted, nobody, confirmed="yes"), "Dropped: 2.")
        self.assertEqual(self.recipients(), ["fresh", "stuck", "other"])
        self.assertEqual(sorted(Outgoing.objects.values_list("pk", flat=True)), [0, 1, 3])

    def test_drop_of_the_largest_number_fits_into_the_form(self):
        Outbox.objects.bulk_create(
            Outbox(mail_id=3, recipient=f"carol{number}@people.example", tries=0) for number in range(admin.MAX_CHOSEN)
        )
        carols = Outbox.objects.filter(recipient__startswith="carol")
        self.assertContains(self.act("drop", *carols, confirmed="yes"), f"Dropped: {admin.MAX_CHOSEN}.")

    def test_action_on_the_outbox_says_when_the_database_is_busy(self):
        with patch.object(outbox, "_writing", side_effect=StorageError):
            self.assertContains(self.act("retry", *Outbox.objects.all()), "The database is busy, please try again.")

    def test_user_with_view_permission_changes_nothing_in_the_outbox(self):
        self.client.force_login(may("reader", "view_outbox"))
        self.assertEqual(len(self.recipients()), 5)
        for action in ("retry", "drop", "delete_selected"):
            self.assertNotContains(self.act(action, *Outbox.objects.all(), confirmed="yes", post="yes"), f'"{action}"')
        self.assertEqual(Outbox.objects.filter(due__gt=time.time()).count(), 3)

    def test_user_without_delete_permission_retries_and_drops_nothing(self):
        self.client.force_login(may("clerk", "view_outbox", "change_outbox"))
        self.assertNotContains(self.act("drop", *Outbox.objects.all(), confirmed="yes"), '"drop"')
        self.assertEqual(Outbox.objects.count(), 5)
        self.assertContains(self.act("retry", *Outbox.objects.all()), "Due now: 3.")

    def test_nobody_adds_edits_or_deletes_a_row_of_the_outbox(self):
        row = Outbox.objects.get(recipient__startswith="nobody")
        self.assertEqual(self.client.get(reverse("admin:mail_states_outbox_add")).status_code, 403)
        self.assertEqual(self.client.post(reverse("admin:mail_states_outbox_delete", args=[row.pk])).status_code, 403)
        change = reverse("admin:mail_states_outbox_change", args=[row.pk])
        self.assertContains(self.client.get(change), "never: refused for good")
        self.assertEqual(self.client.post(change, {"recipient": "other@people.example"}).status_code, 403)
        self.act("delete_selected", row, post="yes")
        self.assertEqual(Outbox.objects.count(), 5)

    @override_settings(USE_TZ=False)
    def test_the_outbox_works_in_a_site_without_time_zones(self):
        self.assertEqual(len(self.recipients()), 5)
