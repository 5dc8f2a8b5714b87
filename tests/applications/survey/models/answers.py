"""The answers, in a table of the application's own."""


def create(connection):
    connection.execute("CREATE TABLE IF NOT EXISTS answers (sender TEXT, question TEXT, answer TEXT)")


def add(connection, sender, question, answer):
    connection.execute("INSERT INTO answers VALUES (?, ?, ?)", (sender, question, answer))


def count(connection, answer):
    (number,) = connection.execute("SELECT count(*) FROM answers WHERE answer = ?", (answer,)).fetchone()
    return number
