#!/bin/sh
# Puts what belongs to the storage that was chosen in its place. A file of the same name was the one of all others.
set -e
storage=storages/{{ cookiecutter.state_storage }}
mv -f $storage/test_*.py tests/model/
# What two storages share stands with Django's, which are copied into a site as they are.
shared=
case $storage in
*/sqlite) shared=storages/django/webapp/mail_states/turns.py ;;
*/postgresql) shared=storages/django/webapp/mail_states/patience.py ;;
*/django) mv -f $storage/webapp . ;;
esac
mv -f $storage/*.py $shared app/model/
rm -rf storages
