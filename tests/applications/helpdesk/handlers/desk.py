"""A help desk: a question, perhaps an urgent one, until the person says that it is solved."""

from salmon.routing import route, route_like

from config import settings


@route("help@(host)")
def START(message, host):
    return pass_on(message, "asked.msg", ASKED)


@route_like(START)
def ASKED(message, host):
    if says(message, "solved"):
        return answer(message, "solved.msg", RATING)
    return pass_on(message, "more.msg", ASKED)


@route_like(START)
def URGENT(message, host):
    if says(message, "solved"):
        return answer(message, "solved.msg", RATING)
    pass_on(message, "more.msg", URGENT)


@route_like(START)
def RATING(message, host):
    if says(message, "again"):
        return pass_on(message, "asked.msg", ASKED)
    return answer(message, "thanks.msg", START)


def pass_on(message, template, state):
    message.forward(to=settings.postmaster)
    return answer(message, template, URGENT if says(message, "urgent") else state)


def answer(message, template, state):
    message.reply(template, sender=f"help@{settings.mail_domain}")
    return state


def says(message, word):
    return word in str(message["Subject"]).lower()
