"""A survey of three questions, each answered with yes or no."""

import re

from salmon.routing import route, route_like

from config import settings


@route("survey@(host)")
def START(message, host):
    return ask(message, WEATHER)


@route_like(START)
def WEATHER(message, host):
    return ask(message, FOOD if is_answer(message) else WEATHER)


@route_like(START)
def FOOD(message, host):
    return ask(message, SLEEP if is_answer(message) else FOOD)


@route_like(START)
def SLEEP(message, host):
    if not is_answer(message):
        return ask(message, SLEEP)
    message.reply("thanks.msg", sender=f"survey@{settings.mail_domain}")
    return START


def ask(message, question):
    message.reply("question.msg", sender=f"survey@{settings.mail_domain}", question=question.__name__.lower())
    return question


def is_answer(message):
    return re.match(r"\s*(yes|no)\b", message.text, re.IGNORECASE)
