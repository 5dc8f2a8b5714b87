#!/bin/sh
# Removes the folder that only Django fills: cookiecutter has no conditional name for a folder.
rmdir app/migrations 2>/dev/null || true
