"""A list that people join by mail: subscribe, confirm, write, unsubscribe.

Each function is a state, and what it returns is the next one. A sender has a state in each list.

    START       news-subscribe      a confirmation is mailed      CONFIRMING
    CONFIRMING  news-confirm-TOKEN  right: welcome                SUBSCRIBED
                                    wrong or expired: a new one   CONFIRMING
    SUBSCRIBED  news                it is stored and confirmed    SUBSCRIBED
                news-archive        the last ten are mailed       SUBSCRIBED
                news-unsubscribe    goodbye                       START

Any other mail gets a hint and changes no state.
"""

import re

from salmon.routing import route, route_like, state_key_generator

from app.models import posts
from config import Message, settings

LISTS = "|".join(map(re.escape, settings.lists))
REQUESTS = "|-subscribe|-unsubscribe|-archive|-confirm-[a-z0-9]+"


@state_key_generator
def one_state_per_list(module, message: Message):
    return f"{module}:{re.match(f'({LISTS})({REQUESTS})@', message.To)[1]}"


@route("(list_name)(request)@(host)", list_name=LISTS, request=REQUESTS)
def START(message: Message, list_name, request, host):
    if request == "-subscribe":
        return ask_to_confirm(message, list_name)
    answer(message, "not_subscribed", list_name)
    return START


@route_like(START)
def CONFIRMING(message: Message, list_name, request, host):
    if message.has_token(request.removeprefix("-confirm-"), list_name):
        answer(message, "welcome", list_name)
        return SUBSCRIBED
    if request == "-subscribe" or request.startswith("-confirm-"):
        return ask_to_confirm(message, list_name)
    answer(message, "not_confirmed", list_name)
    return CONFIRMING


@route_like(START)
def SUBSCRIBED(message: Message, list_name, request, host):
    if request == "-unsubscribe":
        answer(message, "goodbye", list_name)
        return START
    if request == "":
        # Your own business begins here: the subscriber wrote to the list.
        answer(message, "received", list_name)
        posts.add(message.connection, list_name, message.From, message["Subject"], message.text)
    elif request == "-archive":
        answer(message, "archive", list_name, posts=posts.latest(message.connection, list_name))
    else:
        answer(message, "subscribed", list_name)
    return SUBSCRIBED


def ask_to_confirm(message: Message, list_name):
    token = message.token(list_name)  # only this sender gets it
    answer(message, "confirm", list_name, reply_to=f"{list_name}-confirm-{token}@{settings.mail_domain}")
    return CONFIRMING


def answer(message: Message, template, list_name, reply_to=None, **variables):
    sender = f"{list_name}@{settings.mail_domain}"
    headers = {"List-Unsubscribe": f"<mailto:{list_name}-unsubscribe@{settings.mail_domain}>"}
    message.reply(f"{template}.msg", sender, reply_to, headers, list_name=list_name, **variables)
