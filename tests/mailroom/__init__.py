"""Tests of the package `mailroom`, which need no generated application."""
