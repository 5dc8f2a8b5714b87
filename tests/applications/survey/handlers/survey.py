"""A survey of three questions, each answered with yes or no, which are counted."""

import re

from salmon.routing import route, route_like

from app.models import answers
from config import settings


@route("survey@(host)")
def START(message, host):
    return ask(message, WEATHER)


@route_like(START)
def WEATHER(message, host):
    return ask(message, FOOD if has_answered(message, WEATHER) else WEATHER)


@route_like(START)
def FOOD(message, host):
    return ask(message, SLEEP if has_answered(message, FOOD) else FOOD)


@route_like(START)
def SLEEP(message, host):
    if not has_answered(message, SLEEP):
        return ask(message, SLEEP)
    numbers = {answer: answers.count(message.connection, answer) for answer in ("yes", "no")}
    message.reply("thanks.msg", sender=f"survey@{settings.mail_domain}", numbers=numbers)
    return START


def ask(message, question):
    message.reply("question.msg", sender=f"survey@{settings.mail_domain}", question=question.__name__.lower())
    return question


def has_answered(message, question):
    found = re.match(r"\s*(yes|no)\b", message.text, re.IGNORECASE)
    if found:
        answers.add(message.connection, message.From, question.__name__, found[1].lower())
    return found
