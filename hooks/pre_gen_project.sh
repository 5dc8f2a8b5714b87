#!/bin/sh
# Refuses an answer that cannot be, in one line, before anything is on disk. A shell, which starts in a
# tenth of the time that a Python needs.
LC_ALL=C # letters are those of ASCII
{#- An answer as Python writes it, quoted for the shell. What cannot be printed has a backslash then, and so is refused. #}
{%- macro quoted(answer) %}'{{ ("%r" % answer)[1:-1] | replace("'", "'\\''") }}'{% endmacro %}
project={{ quoted(cookiecutter.project) }}
lowercase={{ quoted(cookiecutter.project | lower) }}
mail_domain={{ quoted(cookiecutter.mail_domain) }}
{%- raw %}

# What an application, its tests and its storages depend on: a project of that name would depend on itself.
DEPENDENCIES=" asgiref chardet click dj-database-url dnspython django exceptiongroup greenlet hypothesis iniconfig \
    jinja2 lockfile markupsafe packaging pluggy psycopg psycopg-binary pygments pytest python-daemon ruff salmon-mail \
    setuptools sortedcontainers sqlalchemy sqlparse tomli typing-extensions tzdata whitenoise "

# Each ends the generation; cookiecutter then removes what it made.
refuse_project() {
    printf "ERROR: project '%s' %s; for example mail-app\n" "$project" "$1" >&2
    exit 1
}
refuse_mail_domain() {
    printf "ERROR: mail_domain '%s' %s; for example news.example.com\n" "$mail_domain" "$1" >&2
    exit 1
}

rule="must be at most 64 letters, digits, '-', '_' or '.', begin with a letter and end with a letter or digit"
case $project in
"" | [!A-Za-z]* | *[!A-Za-z0-9] | *[!A-Za-z0-9._-]*) refuse_project "$rule" ;;
esac
[ ${#project} -le 64 ] || refuse_project "$rule"

IFS=-_. # which mean the same in a distribution's name
distribution=
for word in $lowercase; do
    distribution=$distribution${word:+-$word}
done
case $DEPENDENCIES in
*" ${distribution#-} "*) refuse_project "is the name of a package that the application depends on" ;;
esac

rule="must be a host name of letters, digits, '-' and '.', labels of at most 63, other scripts in their xn-- form"
case $mail_domain in
"" | .* | *. | *..* | -* | *- | *.-* | *-.* | *[!A-Za-z0-9.-]*) refuse_mail_domain "$rule" ;;
esac
[ ${#mail_domain} -le 253 ] || refuse_mail_domain "$rule"
IFS=.
for label in $mail_domain; do
    [ ${#label} -le 63 ] || refuse_mail_domain "$rule"
done
{%- endraw %}
