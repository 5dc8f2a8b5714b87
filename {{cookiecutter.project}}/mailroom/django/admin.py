"""The pages to look at states and outbox, and to mend them; of a million rows, none is counted or sorted in full."""

import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db import router, transaction
from django.db.models import Q
from django.template.response import TemplateResponse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.timesince import timesince
from django.utils.timezone import template_localtime
from salmon.routing import ROUTE_FIRST_STATE, Router

from mailroom import handlers, outbox
from mailroom.django.models import Outbox, State
from mailroom.django.storage import DjangoStorage
from mailroom.storage import StorageError

MAX_COUNTED, MAX_FOUND, MAX_VALUES = 10_000, 1_000, 100
MAX_CHOSEN = 900  # Django takes 1,000 fields of a form
OVERDUE = 60  # seconds


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


def trouble(text: str) -> Any:
    return format_html('<span class="mail-states-trouble">{}</span>', text)


def shown_state(state: str, key: str | None) -> Any:
    """Return a state, marked where no handler has it: mail of its senders is refused. Without routes, nobody knows."""
    has_handler = not Router.ORDER or handlers.has_handler(key, state)
    return state if has_handler else trouble(f"{state}: no handler")


class MailAdmin(admin.ModelAdmin):
    """Rows that mail writes. People look at them, and change them by actions only."""

    title: str
    paginator = ShortPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    class Media:
        css = {"all": ["mail_states/states.css"]}

    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return obj is None and super().has_change_permission(request)

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return obj is None and super().has_delete_permission(request)

    def get_actions(self, request: Any) -> dict[str, Any]:
        return {name: action for name, action in super().get_actions(request).items() if name in self.actions}

    # A reset is one transaction for each sender, under the sender's lock.
    @transaction.non_atomic_requests(using=router.db_for_write(State))
    def changelist_view(self, request: Any, extra_context: dict[str, Any] | None = None) -> Any:
        return super().changelist_view(request, {"title": self.title, **(extra_context or {})})

    def act(self, request: Any, rows: Any, act: Callable[[Any, DjangoStorage, Any], None], question: str = "") -> Any:
        """Call `act(request, storage, rows)` with the rows that were chosen, once the question was answered."""
        chosen = list(rows[: MAX_CHOSEN + 1])
        if len(chosen) > MAX_CHOSEN:
            self.message_user(request, f"At most {MAX_CHOSEN:,} at once; operate.py takes any number.", messages.ERROR)
        elif question and "confirmed" not in request.POST:
            context = {**self.admin_site.each_context(request), "title": question, "rows": chosen}
            return TemplateResponse(request, "admin/mail_states/confirm.html", context)
        else:
            act(request, DjangoStorage(router.db_for_write(self.model)), chosen)


class KeyFilter(admin.SimpleListFilter):
    title = parameter_name = "key"

    def values(self, rows: Any) -> Any:
        return rows.order_by(self.title).values_list(self.title, flat=True).distinct()[:MAX_VALUES]

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, Any]]:
        return [(value, value) for value in self.values(State.objects)]

    def queryset(self, request: Any, rows: Any) -> Any:
        return rows if self.value() is None else rows.filter(**{self.parameter_name: self.value()})


class StateFilter(KeyFilter):
    """The states under the key that is looked at, each with the number of its senders."""

    title = parameter_name = "state"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, Any]]:
        key = request.GET.get("key")
        rows = State.objects.filter(key=key) if key else State.objects.all()
        numbers = {state: str(counted(rows.filter(state=state))) for state in self.values(rows)}
        return [(state, format_html("{} ({})", shown_state(state, key), number)) for state, number in numbers.items()]


@admin.register(State)
class StateAdmin(MailAdmin):
    title = "States of the senders"
    list_display = ["sender", "key", "state_", "changed"]
    list_filter = [StateFilter, KeyFilter]
    sortable_by = ["changed"]
    ordering = ["-changed"]
    search_fields = ["sender"]
    search_help_text = "The beginning of an address. With @ or * at its beginning: any part of one, which takes longer."
    fields = readonly_fields = list_display
    actions = ["back_to_start"]

    @admin.display(description="state")
    def state_(self, row: State) -> Any:
        return shown_state(row.state, row.key)

    def get_search_results(self, request: Any, rows: Any, text: str) -> tuple[Any, bool]:
        text = text.strip().lower()  # as Salmon hands over a sender
        if not text:
            return rows, False
        part, beginning = Q(sender__icontains=text.lstrip("*")), Q(sender__gte=text, sender__lt=text + "\U0010ffff")
        found = rows.filter(part if text[0] in "@*" else beginning)
        keys = list(found.order_by().values_list("pk", flat=True)[: MAX_FOUND + 1])
        if len(keys) > MAX_FOUND:
            messages.warning(request, f"Too many match {text!r}; only {MAX_FOUND:,} of them are looked at.")
        return rows.filter(pk__in=keys[:MAX_FOUND]), False

    @admin.action(description=f"Back to {ROUTE_FIRST_STATE}", permissions=["change"])
    def back_to_start(self, request: Any, rows: Any) -> Any:
        return self.act(request, rows, self._reset, f"Put these senders back to {ROUTE_FIRST_STATE}?")

    def _reset(self, request: Any, storage: DjangoStorage, states: list[State]) -> None:
        """Delete rows that have not changed since, each while no mail of its sender is being handled."""
        done, busy = 0, []
        for state in states:
            try:
                with storage.transaction(state.sender):
                    number, _ = State.objects.using(storage.using).filter(pk=state.pk, state=state.state).delete()
            except StorageError:
                busy.append(str(state))
            else:
                if number:
                    done += 1
                    self.log_change(request, state, f"Back to {ROUTE_FIRST_STATE} from {state.state}.")
        level = messages.WARNING if busy else messages.SUCCESS
        text = f" Busy, please try again: {', '.join(busy)}." if busy else ""
        self.message_user(request, f"Back to {ROUTE_FIRST_STATE}: {done}.{text}", level)


class RefusedFilter(KeyFilter):
    title, parameter_name = "status", "refused"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, Any]]:
        return [("1", "Refused for good"), ("0", "Waits")]


@admin.register(Outbox)
class OutboxAdmin(MailAdmin):
    title = "Outbox: mail that the relay has not taken"
    list_display = ["recipient", "age", "tries", "next_try", "last_answer"]
    list_filter = [RefusedFilter]
    sortable_by: list[str] = []
    ordering = ["pk"]
    search_fields = ["recipient"]
    fields = readonly_fields = list_display
    actions = ["retry", "drop"]

    def get_queryset(self, request: Any) -> Any:
        rows = super().get_queryset(request).select_related("mail").defer("mail__data")
        return rows.annotate(refused=Q(due__isnull=True))

    def age(self, row: Outbox) -> str:
        return str(timesince(datetime.fromtimestamp(row.mail.created, timezone.utc), depth=1))

    def next_try(self, row: Outbox) -> Any:
        now = time.time()
        if row.due is None:
            return trouble("never: refused for good")
        if row.due < now - OVERDUE:
            return "when server and relay run"
        at = template_localtime(datetime.fromtimestamp(row.due, timezone.utc))
        return f"{at:%Y-%m-%d %H:%M:%S %Z}" if row.tries and row.due > now else "now"

    def last_answer(self, row: Outbox) -> Any:
        return trouble(row.answer) if row.answer and row.due is None else row.answer

    @admin.action(description="Retry now", permissions=["change"])
    def retry(self, request: Any, rows: Any) -> Any:
        return self.act(request, rows, partial(self._do, outbox.retry, "Due now"))

    @admin.action(description="Drop", permissions=["delete"])
    def drop(self, request: Any, rows: Any) -> Any:
        return self.act(request, rows, partial(self._do, outbox.drop, "Dropped"), "Drop this mail? Nobody gets it.")

    def _do(self, work: Any, done: str, request: Any, storage: DjangoStorage, chosen: list[Outbox]) -> None:
        rows = {(row.mail_id, row.recipient): row for row in chosen}
        places = ", ".join("?" * len(chosen))
        try:
            acted = work(storage, outbox.rows(storage, f"outbox.id IN ({places})", *(row.pk for row in chosen)))
        except StorageError:
            self.message_user(request, "The database is busy, please try again.", messages.ERROR)
            return
        for row in acted:
            self.log_change(request, rows[row[:2]], f"{done}.")
        self.message_user(request, f"{done}: {len(acted)}.", messages.SUCCESS)
