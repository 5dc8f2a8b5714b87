"""The page to look at the states and to mend them; with a million rows as well.

Nothing is counted or sorted in full: counts stop at `MAX_COUNTED`, and what is shown comes by an index.
"""

from typing import Any

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db import router, transaction
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from salmon.routing import ROUTE_FIRST_STATE, Router

from mailroom import handlers
from mailroom.django.models import State
from mailroom.django.storage import DjangoStorage
from mailroom.storage import StorageError

MAX_COUNTED = 10_000
MAX_FOUND = 1_000
MAX_RESET = 900  # Django takes 1,000 fields of a form


class More(int):
    """A count that was given up; it prints as `10,000+`."""

    def __str__(self) -> str:
        return f"{int(self):,}+"


def counted(rows: Any) -> int:
    """Return how many rows there are, as far as `MAX_COUNTED`."""
    number = rows.order_by()[: MAX_COUNTED + 1].count()
    return number if number <= MAX_COUNTED else More(MAX_COUNTED)


class ShortPaginator(Paginator):
    @cached_property
    def count(self) -> int:
        return counted(self.object_list)


def is_lost(state: str, key: str | None = None) -> bool:
    """Return whether no handler has the state: mail of its senders is refused. Only a process with routes can tell."""
    return bool(Router.ORDER) and not handlers.has_handler(key, state)


class ValueFilter(admin.SimpleListFilter):
    """Choices of the values that an indexed field has."""

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, value) for value in State.objects.values_of(self.parameter_name)]

    def queryset(self, request: Any, rows: Any) -> Any:
        return rows if self.value() is None else rows.filter(**{self.parameter_name: self.value()})


class StateFilter(ValueFilter):
    title = parameter_name = "state"


class KeyFilter(ValueFilter):
    title = parameter_name = "key"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        rows = [State(key=value) for value, _ in super().lookups(request, model_admin)]
        names = [row.short_key for row in rows]
        return [
            (row.key, row.short_key if names.count(row.short_key) == 1 else f"{row.short_key} in {row.handler}")
            for row in rows
        ]


@admin.register(State)
class StateAdmin(admin.ModelAdmin):
    list_display = ["sender", "short_key", "handler", "state_", "changed_"]
    list_filter = [StateFilter, KeyFilter]
    sortable_by = ["changed_"]
    ordering = ["-changed"]
    search_fields = ["sender"]
    search_help_text = "The beginning of an address. With @ or * at its beginning: any part of one, which takes longer."
    paginator = ShortPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    fields = readonly_fields = ["sender", "short_key", "handler", "state_", "changed_"]
    actions = ["back_to_start"]

    # A row is made and changed by mail; people put a sender back to the start, and nothing else.
    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_delete_permission(self, request: Any, obj: State | None = None) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: State | None = None) -> bool:
        return obj is None and super().has_change_permission(request)

    class Media:
        css = {"all": ["mail_states/states.css"]}

    @admin.display(description="state")
    def state_(self, row: State) -> Any:
        text = '<span class="mail-states-lost">{}: no handler</span>' if is_lost(row.state, row.key) else "{}"
        return format_html(text, row.state)

    @admin.display(description="changed", ordering="changed")
    def changed_(self, row: State) -> str:
        return str(timezone.template_localtime(row.changed).strftime("%Y-%m-%d %H:%M:%S %Z"))

    @transaction.non_atomic_requests  # a reset is one transaction for each sender, under the sender's lock
    def changelist_view(self, request: Any, extra_context: dict[str, Any] | None = None) -> Any:
        response = super().changelist_view(request, {"title": "States of the senders", **(extra_context or {})})
        page = getattr(response, "context_data", None) or {}
        if "cl" in page:
            page["counts"] = self._counts(page["cl"])
        return response

    def get_search_results(self, request: Any, rows: Any, text: str) -> tuple[Any, bool]:
        text = text.strip().lower()  # as Salmon hands over a sender
        if not text:
            return rows, False
        if text[0] in "@*":
            found = rows.filter(sender__icontains=text.lstrip("*"))
        else:
            found = rows.of_senders_beginning(text)
        keys = list(found.order_by().values_list("pk", flat=True)[: MAX_FOUND + 1])
        if len(keys) > MAX_FOUND:
            messages.warning(request, f"Too many match {text!r}; only {MAX_FOUND:,} of them are looked at.")
        return rows.filter(pk__in=keys[:MAX_FOUND]), False

    @admin.action(description=f"Back to {ROUTE_FIRST_STATE}", permissions=["change"])
    def back_to_start(self, request: Any, rows: Any) -> Any:
        """Put senders back to the start, once that was confirmed; each while no mail of theirs is being handled."""
        states = list(rows[: MAX_RESET + 1])
        if len(states) > MAX_RESET:
            text = f"At most {MAX_RESET:,} at once, please; operate.py states reset takes any number."
            self.message_user(request, text, messages.ERROR)
        elif "confirmed" in request.POST:
            storage = DjangoStorage(router.db_for_write(State))
            busy = [state for state in states if not self._reset(request, storage, state)]
            self.message_user(request, f"Back to {ROUTE_FIRST_STATE}: {len(states) - len(busy)}.", messages.SUCCESS)
            if busy:
                text = f"Mail was being handled, please try again: {', '.join(map(str, busy))}."
                self.message_user(request, text, messages.WARNING)
        else:
            context = {
                **self.admin_site.each_context(request),
                "title": f"Back to {ROUTE_FIRST_STATE}?",
                "opts": self.opts,
                "states": states,
                "start": ROUTE_FIRST_STATE,
                "action_checkbox_name": admin.helpers.ACTION_CHECKBOX_NAME,
            }
            return TemplateResponse(request, "admin/mail_states/state/back_to_start.html", context)

    def _reset(self, request: Any, storage: DjangoStorage, state: State) -> bool:
        """Return whether the row could be deleted; waits for the lock of its sender."""
        try:
            with storage.transaction(state.sender):
                number, _ = State.objects.using(storage.using).filter(pk=state.pk, state=state.state).delete()
        except StorageError:
            return False
        if not number:  # a mail came first
            return False
        self.log_change(request, state, f"Back to {ROUTE_FIRST_STATE} from {state.state}.")
        return True

    def _counts(self, page: Any) -> list[dict[str, Any]]:
        """Return how many senders are in each state, under the key that is looked at, and the link to them."""
        rows = State.objects.filter(key=page.params["key"]) if "key" in page.params else State.objects.all()
        numbers = [(state, counted(rows.filter(state=state))) for state in rows.values_of("state")]
        return [
            {
                "name": state,
                "number": number,
                "link": page.get_query_string({"state": state}, ["p"]),
                "is_lost": is_lost(state, page.params.get("key")),
            }
            for state, number in numbers
        ]
