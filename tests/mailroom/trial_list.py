"""Handlers for the tests: a list `news` that goes like the sample's, takes any token, and answers with one text."""

import re
import secrets

from salmon.routing import route, route_like, state_key_generator, stateless

DOMAIN = "example.com"
POSTMASTER = "root@localhost"


@state_key_generator
def one_state_per_list(module, message):
    return f"{module}:{re.split('[-@]', message.To)[0]}"


@route("(list_name)(request)@(host)", list_name="news", request="|-subscribe|-unsubscribe|-confirm-[0-9a-f]+")
def START(message, list_name, request, host):
    return answer(message, list_name, CONFIRMING if request == "-subscribe" else START)


@route_like(START)
def CONFIRMING(message, list_name, request, host):
    return answer(message, list_name, SUBSCRIBED if request.startswith("-confirm-") else CONFIRMING)


@route_like(START)
def SUBSCRIBED(message, list_name, request, host):
    return answer(message, list_name, START if request == "-unsubscribe" else SUBSCRIBED)


@route("postmaster@(host)")
@stateless
def FORWARD(message, host):
    message.forward(to=POSTMASTER)


def answer(message, list_name, state):
    confirm = f"{list_name}-confirm-{secrets.token_hex(4)}@{DOMAIN}" if state is CONFIRMING else None
    message.reply("answer.msg", sender=f"{list_name}@{DOMAIN}", reply_to=confirm, list_name=list_name)
    return state
