#!/bin/sh
# Puts what belongs to the storage that was chosen in its place. A file of the same name was the one of all others.
set -e
storage=storages/{{ cookiecutter.state_storage }}
mv -f $storage/test_*.py tests/model/
# What two storages share stands with Django's, which are copied into a site as they are.
shared=storages/django/webapp/mail_states
case $storage in
*/sqlite) mv -f $storage/*.py $shared/turns.py app/model/ ;;
*/shelve) mv -f $storage/*.py app/model/ ;;
*/postgresql) mv -f $storage/*.py $shared/patience.py app/model/ ;;
*/django) mv -f $storage/*.py app/model/ && mv -f $storage/webapp . ;;
esac
rm -rf storages
