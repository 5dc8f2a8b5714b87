#!/bin/sh
# Puts what belongs to the storage that was chosen in its place. A file of the same name was the one of all others.
set -e
mv -f storages/{{ cookiecutter.state_storage }}/test_*.py tests/model/
mv -f storages/{{ cookiecutter.state_storage }}/*.py app/model/
case {{ cookiecutter.state_storage }} in
sqlite) mv -f storages/django/webapp/mail_states/turns.py app/model/ ;; # both take turns alike
django) cp -pR storages/django/webapp . ;;
esac
rm -rf storages
