"""A list that people join by mail: subscribe, confirm, write, unsubscribe.

Each function is a state, and what it returns is the next one. A sender has a state in each list.

    START       news-subscribe      a confirmation is mailed      CONFIRMING
    CONFIRMING  news-confirm-TOKEN  right: welcome                SUBSCRIBED
                                    wrong or expired: a new one   CONFIRMING
    SUBSCRIBED  news                it is acknowledged            SUBSCRIBED
                news-unsubscribe    goodbye                       START

Anything else is answered with a hint and changes no state.
"""

import re

from salmon.routing import route, route_like, state_key_generator

from app.mail.reply import reply
from app.model import tokens
from config import settings

# What may follow the name of a list in our addresses. The state key is read by it: a new address stands here too.
REQUESTS = "|-subscribe|-unsubscribe|-confirm-[a-z0-9]+"
ADDRESS = re.compile(f"({'|'.join(map(re.escape, settings.lists))})(?:{REQUESTS})@")


@state_key_generator
def module_and_list(module_name, message):
    """Return the state key: every list remembers its senders by itself."""
    return f"{module_name}:{ADDRESS.match(message.To)[1]}"


@route("(list_name)(request)@(host)", request=REQUESTS)
def START(message, list_name, request, host):
    if request == "-subscribe":
        return ask_to_confirm(message, list_name)
    answer(message, "not_subscribed.msg", list_name)
    return START


@route_like(START)
def CONFIRMING(message, list_name, request, host):
    if request.startswith("-confirm-"):
        token = request.removeprefix("-confirm-")
        if tokens.is_valid(token, list_name, message.From):
            answer(message, "welcome.msg", list_name)
            return SUBSCRIBED
        return ask_to_confirm(message, list_name)
    if request == "-subscribe":
        return ask_to_confirm(message, list_name)
    answer(message, "not_confirmed.msg", list_name)
    return CONFIRMING


@route_like(START)
def SUBSCRIBED(message, list_name, request, host):
    if request == "-unsubscribe":
        answer(message, "goodbye.msg", list_name)
        return START
    if request == "":
        # Your own business begins here: the subscriber wrote to the list.
        answer(message, "received.msg", list_name)
    else:
        answer(message, "subscribed.msg", list_name)
    return SUBSCRIBED


def ask_to_confirm(message, list_name):
    token = tokens.make(list_name, message.From)
    confirm = f"{list_name}-confirm-{token}@{settings.mail_domain}"
    answer(message, "confirm.msg", list_name, Reply_To=confirm)
    return CONFIRMING


def answer(message, template, list_name, Reply_To=None):
    address = f"{list_name}@{settings.mail_domain}"
    reply(
        message,
        template,
        From=address,
        Reply_To=Reply_To,
        list_name=list_name,
        domain=settings.mail_domain,
        hours=tokens.HOURS,
    )
