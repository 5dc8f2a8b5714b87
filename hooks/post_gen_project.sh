#!/bin/sh
# Puts the files of the storage that was chosen where they belong, over those that all other storages share.
set -e
mv storages/{{ cookiecutter.state_storage }}/test_*.py tests/model/
mv storages/{{ cookiecutter.state_storage }}/*.py app/model/
case {{ cookiecutter.state_storage }} in
sqlite) mv storages/django/webapp/mail_states/turns.py app/model/ ;; # both take turns alike
django) mv storages/django/webapp . ;;
esac
rm -rf storages
