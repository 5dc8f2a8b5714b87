"""What a person sees and does in the admin. Django's own `manage.py test` can run this in any site that has the app."""

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

from mailroom import handlers
from mailroom.django import admin
from mailroom.django.models import State
from mailroom.storage import StorageError

NEWS, DEV = "app.handlers.subscription:news", "app.handlers.subscription:dev"
ROWS = [
    (NEWS, "alice@people.example", "SUBSCRIBED"),
    (DEV, "alice@people.example", "CONFIRMING"),
    (NEWS, "bob@people.example", "CONFIRMING"),
    (NEWS, "=1+1@evil.example", "CONFIRMING"),
]
connection = connections[router.db_for_read(State)]


@pytest.mark.usefixtures("pages")
@override_settings(SECURE_SSL_REDIRECT=False)
class Pages(TestCase):
    databases = "__all__"

    @classmethod
    def setUpTestData(cls):
        cls.page = reverse("admin:mail_states_state_changelist")
        for key, sender, state in ROWS:
            State.objects.create(key=key, sender=sender, state=state)
        users = get_user_model().objects
        cls.operator = users.create_superuser("operator")
        cls.reader = users.create_user("reader", is_staff=True)
        cls.reader.user_permissions.add(Permission.objects.get(codename="view_state"))

    def setUp(self):
        self.client.force_login(self.operator)

    def rows(self, **query):
        """Return what the page lists, as pairs of sender and key."""
        page = self.client.get(self.page, query)
        self.assertEqual(page.status_code, 200)
        return [(state.sender, state.short_key) for state in page.context["cl"].result_list]

    def act(self, action, *rows, **data):
        chosen = [row.pk for row in rows]
        return self.client.post(self.page, {"action": action, "_selected_action": chosen, **data}, follow=True)

    def test_the_newest_change_comes_first(self):
        self.assertEqual(self.rows()[0], ("=1+1@evil.example", "news"))

    def test_filters_by_state_and_key(self):
        self.assertEqual(self.rows(state="SUBSCRIBED"), [("alice@people.example", "news")])
        self.assertEqual(self.rows(key=DEV), [("alice@people.example", "dev")])
        self.assertEqual(self.rows(key=DEV, state="SUBSCRIBED"), [])

    def test_search_by_beginning_and_part_of_an_address(self):
        self.assertEqual(self.rows(q="Bob"), [("bob@people.example", "news")])
        self.assertEqual(self.rows(q="alice@people.example", key=NEWS), [("alice@people.example", "news")])
        with patch.object(admin, "MAX_FOUND", 1):  # of those that the filter has left
            self.assertEqual(self.rows(q="alice", key=DEV), [("alice@people.example", "dev")])
        self.assertEqual(self.rows(q="people"), [])
        self.assertEqual(len(self.rows(q="*people")), 3)
        self.assertEqual(self.rows(q="@evil"), [("=1+1@evil.example", "news")])
        self.assertEqual(self.rows(q="%"), [])

    def test_senders_are_counted_by_state(self):
        def counts(**query):
            page = self.client.get(self.page, query)
            return {count["name"]: str(count["number"]) for count in page.context["counts"]}

        self.assertEqual(counts(), {"CONFIRMING": "3", "SUBSCRIBED": "1"})
        self.assertEqual(counts(key=DEV), {"CONFIRMING": "1"})
        with patch.object(admin, "MAX_COUNTED", 2):
            self.assertEqual(counts(), {"CONFIRMING": "2+", "SUBSCRIBED": "1"})
            with override_settings(USE_THOUSAND_SEPARATOR=True):
                page = self.client.get(self.page)
                self.assertContains(page, "<b>2+</b>")
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
        self.assertContains(self.act("back_to_start", bob), "bob@people.example (news), now CONFIRMING")
        self.assertTrue(State.objects.filter(pk=bob.pk).exists())
        self.assertContains(self.act("back_to_start", bob, confirmed="yes"), "Back to START: 1.")
        self.assertFalse(State.objects.filter(pk=bob.pk).exists())
        self.assertEqual(State.objects.count(), len(ROWS) - 1)

    def test_back_to_start_names_senders_whose_mail_is_being_handled(self):
        with patch.object(admin.DjangoStorage, "lock", side_effect=StorageError):
            answer = self.act("back_to_start", *State.objects.filter(key=DEV), confirmed="yes")
        self.assertContains(answer, "please try again: alice@people.example (app.handlers.subscription:dev).")
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

    def test_back_to_start_of_the_largest_number_fits_into_the_form(self):
        State.objects.bulk_create(
            State(key=NEWS, sender=f"carol{number}@people.example", state="CONFIRMING")
            for number in range(admin.MAX_RESET)
        )
        carols = State.objects.filter(sender__startswith="carol")
        self.assertContains(self.act("back_to_start", *carols, confirmed="yes"), f"Back to START: {admin.MAX_RESET}.")

    @override_settings(USE_TZ=False)
    def test_the_page_works_in_a_site_without_time_zones(self):
        self.assertEqual(len(self.rows()), len(ROWS))

    def test_back_to_start_refuses_too_many(self):
        with patch.object(admin, "MAX_RESET", 1):
            self.assertContains(self.act("back_to_start", *State.objects.all(), confirmed="yes"), "At most 1 at once")
        self.assertEqual(State.objects.count(), len(ROWS))

    def test_user_with_view_permission_changes_nothing(self):
        self.client.force_login(self.reader)
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
