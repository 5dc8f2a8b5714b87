"""The page to look at the conversations and to mend them; with a million rows as well.

Nothing is counted or sorted in full: counts stop at `MOST_COUNTED`, and what is shown comes by an index.
"""

import csv
from itertools import chain

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db import router, transaction
from django.db.models import Count
from django.http import StreamingHttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.functional import cached_property

from .conversation import conversation
from .models import START, State

MOST_COUNTED = 10_000
MOST_FOUND = 1_000
MOST_RESET = 900  # Django takes 1,000 fields of a form


class More(int):
    """A count that was given up; it prints as `10,000+`."""

    def __str__(self):
        return f"{int(self):,}+"


def counted(rows):
    """Return how many rows there are, as far as `MOST_COUNTED`."""
    number = rows.order_by()[: MOST_COUNTED + 1].count()
    return number if number <= MOST_COUNTED else More(MOST_COUNTED)


class ShortPaginator(Paginator):
    @cached_property
    def count(self):
        return counted(self.object_list)


class Echo:
    """A file for `csv.writer`, which gives back what is written."""

    def write(self, text):
        return text


def plain(text):
    """Return `text` so that no spreadsheet takes it for a formula; a sender is whatever a stranger has sent."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


class ValueFilter(admin.SimpleListFilter):
    """Choices of the values that an indexed field has."""

    def lookups(self, request, model_admin):
        return [(value, value) for value in State.objects.values_of(self.parameter_name)]

    def queryset(self, request, rows):
        return rows if self.value() is None else rows.filter(**{self.parameter_name: self.value()})


class StateFilter(ValueFilter):
    title = parameter_name = "state"


class ListFilter(ValueFilter):
    title = "list"
    parameter_name = "key"

    def lookups(self, request, model_admin):
        rows = [State(key=value) for value, _ in super().lookups(request, model_admin)]
        names = [row.list_name for row in rows]
        return [
            (row.key, row.list_name if names.count(row.list_name) == 1 else f"{row.list_name} in {row.handler}")
            for row in rows
        ]


@admin.register(State)
class StateAdmin(admin.ModelAdmin):
    list_display = ["sender", "list_", "handler_", "state", "changed_"]
    list_filter = [StateFilter, ListFilter]
    sortable_by = ["changed_"]
    ordering = ["-changed"]
    search_fields = ["sender"]
    search_help_text = "The beginning of an address. With @ or * at its beginning: any part of one, which takes longer."
    paginator = ShortPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    fields = readonly_fields = ["sender", "list_", "handler", "state", "changed_"]
    actions = ["back_to_start", "export_as_csv"]

    # A row is made and changed by mail; people put a sender back to the start, and nothing else.
    def has_add_permission(self, request):
        return False

    def has_delete_permission(self, request, obj=None):
        return False

    def has_change_permission(self, request, obj=None):
        return obj is None and super().has_change_permission(request)

    class Media:
        css = {"all": ["mail_states/states.css"]}

    @admin.display(description="list")
    def list_(self, state):
        return state.list_name

    @admin.display(description="handler")
    def handler_(self, state):
        return state.handler.rpartition(".")[2]

    @admin.display(description="changed", ordering="changed")
    def changed_(self, state):
        return timezone.template_localtime(state.changed).strftime("%Y-%m-%d %H:%M:%S %Z")

    @transaction.non_atomic_requests  # a reset is one transaction for each sender, in the sender's turn
    def changelist_view(self, request, extra_context=None):
        request.GET = request.GET.copy()
        exact = bool(request.GET.pop("exact", None))
        response = super().changelist_view(request, {"title": "Where the conversations stand", **(extra_context or {})})
        page = getattr(response, "context_data", None) or {}
        if "cl" in page:
            page["counts"] = counts = self._counts(page["cl"], exact)
            if any(isinstance(state["number"], More) for state in counts):
                page["count_all"] = page["cl"].get_query_string({"exact": "1"})
        return response

    def get_search_results(self, request, rows, text):
        text = text.strip().lower()  # as Salmon hands over a sender
        if not text:
            return rows, False
        if text[0] in "@*":
            found = rows.filter(sender__icontains=text.lstrip("*"))
        else:
            found = rows.of_senders_beginning(text)
        keys = list(found.order_by().values_list("pk", flat=True)[: MOST_FOUND + 1])
        if len(keys) > MOST_FOUND:
            messages.warning(request, f"Too many match {text!r}; only {MOST_FOUND:,} of them are looked at.")
        return rows.filter(pk__in=keys[:MOST_FOUND]), False

    @admin.action(description=f"Back to {START}", permissions=["change"])
    def back_to_start(self, request, rows):
        """Put senders back to the start, once that was confirmed; each while no mail of theirs is being handled."""
        states = list(rows[: MOST_RESET + 1])
        if len(states) > MOST_RESET:
            text = f"At most {MOST_RESET:,} at once, please; operate.py states reset takes any number."
            self.message_user(request, text, messages.ERROR)
        elif "confirmed" in request.POST:
            busy = [state for state in states if not self._reset(request, state)]
            self.message_user(request, f"Back to {START}: {len(states) - len(busy)}.", messages.SUCCESS)
            if busy:
                text = f"Mail was being handled, please try again: {', '.join(map(str, busy))}."
                self.message_user(request, text, messages.WARNING)
        else:
            context = {
                **self.admin_site.each_context(request),
                "title": f"Back to {START}?",
                "opts": self.opts,
                "states": states,
                "start": START,
                "action_checkbox_name": admin.helpers.ACTION_CHECKBOX_NAME,
            }
            return TemplateResponse(request, "admin/mail_states/state/back_to_start.html", context)

    @admin.action(description="Export as CSV", permissions=["view"])
    def export_as_csv(self, request, rows):
        """Answer with a file for spreadsheets, which is sent while it is read."""
        writer = csv.writer(Echo())
        head = ["sender", "list", "handler", "state", "changed"]
        lines = (
            [*map(plain, (state.sender, state.list_name, state.handler, state.state)), state.changed.isoformat()]
            for state in rows.iterator()
        )
        return StreamingHttpResponse(
            map(writer.writerow, chain([head], lines)),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="states.csv"'},
        )

    def _reset(self, request, state):
        """Return whether the row could be taken away; waits for the turn of its sender."""
        using = router.db_for_write(State)
        try:
            with conversation(state.sender, using):
                number, _ = State.objects.using(using).filter(pk=state.pk, state=state.state).delete()
        except TimeoutError:
            return False
        if not number:  # a mail came first
            return False
        self.log_change(request, state, f"Back to {START} from {state.state}.")
        return True

    def _counts(self, page, exact):
        """Return how many senders are in each state, in the list that is looked at, and the way to them."""
        rows = State.objects.filter(key=page.params["key"]) if "key" in page.params else State.objects.all()
        if exact:
            numbers = rows.order_by("state").values_list("state").annotate(Count("pk"))
        else:
            numbers = [(state, counted(rows.filter(state=state))) for state in rows.values_of("state")]
        return [
            {"name": state, "number": number, "link": page.get_query_string({"state": state}, ["p"])}
            for state, number in numbers
        ]
