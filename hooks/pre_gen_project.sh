#!/bin/sh
# Refuses an answer that cannot be used, in one line, before any file is made. A shell, which starts in a
# tenth of the time that a Python needs.
LC_ALL=C # letters are those of ASCII
{#- An answer as Python writes it, quotes and all, for the shell. What cannot be printed has a backslash then. #}
{%- macro written(answer) %}'{{ ("%r" % answer) | replace("'", "'\\''") }}'{% endmacro %}
project={{ written(cookiecutter.project) }}
lowercase={{ written(cookiecutter.project | lower) }}
mail_domain={{ written(cookiecutter.mail_domain) }}
{%- raw %}

# What an application, its tests and its storages depend on: a project of that name would depend on itself.
DEPENDENCIES=" asgiref backports-datetime-fromisoformat chardet click dj-database-url django dnspython environs \
    exceptiongroup greenlet html-text iniconfig jinja2 lockfile lxml lxml-html-clean markupsafe \
    marshmallow packaging pip pluggy psycopg psycopg-binary pygments pymysql pytest python-daemon python-dotenv \
    quotequail rstr ruff salmon-mail setuptools sqlalchemy sqlparse tomli typing-extensions tzdata \
    whitenoise "

# refuse QUESTION ANSWER RULE EXAMPLE: end the generation; cookiecutter then removes what it made.
refuse() {
    printf 'ERROR: %s %s %s; for example %s\n' "$@" >&2
    exit 1
}

name=${project#?} # without the quotes
name=${name%?}
rule="must be at most 64 letters, digits, '-', '_' or '.', begin with a letter and end with a letter or digit"
case $name in
"" | [!A-Za-z]* | *[!A-Za-z0-9] | *[!A-Za-z0-9._-]*) refuse project "$project" "$rule" mail-app ;;
esac
[ ${#name} -le 64 ] || refuse project "$project" "$rule" mail-app

IFS="-_.'" # the first three mean the same in a distribution's name
distribution=
for word in $lowercase; do
    distribution=$distribution${word:+-$word}
done
case $DEPENDENCIES in
*" ${distribution#-} "*)
    refuse project "$project" "is the name of a package that the application depends on" mail-app
    ;;
esac

# Called in the project's folder, which may be there already with --overwrite-if-exists. Of a folder that it copies
# whole, cookiecutter then first deletes what is there: the states, the signing key, and handlers of the user's own.
for folder in app deploy/systemd logs mailroom run tests; do
    [ ! -d $folder ] || refuse project "$project" "names a folder with $folder/ in it, which would be deleted" mail-app-2
done

domain=${mail_domain#?}
domain=${domain%?}
rule="must be a host name of letters, digits, '-' and '.', labels of at most 63, other scripts in their xn-- form"
case $domain in
"" | .* | *. | *..* | -* | *- | *.-* | *-.* | *[!A-Za-z0-9.-]*)
    refuse mail_domain "$mail_domain" "$rule" news.example.com
    ;;
esac
[ ${#domain} -le 253 ] || refuse mail_domain "$mail_domain" "$rule" news.example.com
IFS=.
for label in $domain; do
    [ ${#label} -le 63 ] || refuse mail_domain "$mail_domain" "$rule" news.example.com
done
{%- endraw %}
