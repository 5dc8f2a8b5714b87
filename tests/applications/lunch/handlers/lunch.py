"""An invitation to lunch: whoever writes to lunch is asked and says yes or no, and lunch-who tells who comes."""

from salmon.routing import Router, route, route_like, stateless

from config import settings


@route("lunch@(host)")
def START(message, host):
    return ask(message)


@route_like(START)
def ASKED(message, host):
    return decide(message)


@route_like(START)
def COMES(message, host):
    return decide(message)


@route_like(START)
def DECLINED(message, host):
    return decide(message)


@route("lunch-who@(host)")
@stateless
def WHO(message, host):
    guests = [guest for guest in settings.guests if Router.STATE_STORE.get(__name__, guest) == "COMES"]
    message.reply("who.msg", sender=f"lunch-who@{settings.mail_domain}", guests=guests)


def decide(message):
    word = message.text.lower().replace(",", " ").split()[:1]
    if word == ["yes"]:
        answer(message, "see_you")
        return COMES
    if word == ["no"]:
        answer(message, "pity")
        return DECLINED
    return ask(message)


def ask(message):
    answer(message, "question", reply_to=f"lunch@{settings.mail_domain}")
    return ASKED


def answer(message, template, **options):
    message.reply(f"{template}.msg", sender=f"Lunch <lunch@{settings.mail_domain}>", **options)
