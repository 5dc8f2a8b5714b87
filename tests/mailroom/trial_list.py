"""A list `news` of the tests' own: what they say of the application holds whatever its handlers, lists and texts are.

The fixture `trial_list` puts it in their place. It goes like `app/handlers/subscription.py`, but has one text for
every answer, and takes any token for right.
"""

import re
import secrets

import jinja2
from salmon.routing import route, route_like, state_key_generator, stateless

from app.mail.reply import reply
from config import settings

TEXT = "Please confirm your subscription to {{ list_name }}\n\nIf not, do nothing, and nothing will happen.\n"
TEMPLATES = jinja2.DictLoader({"answer.msg": TEXT})


@state_key_generator
def module_and_list(module_name, message):
    return f"{module_name}:{re.split('[-@]', message.To)[0]}"


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
    settings.relay.deliver(message, To=settings.postmaster, From="<>")


def answer(message, list_name, state):
    confirm = f"{list_name}-confirm-{secrets.token_hex(4)}@{settings.mail_domain}" if state is CONFIRMING else None
    reply(message, "answer.msg", From=f"{list_name}@{settings.mail_domain}", Reply_To=confirm, list_name=list_name)
    return state
