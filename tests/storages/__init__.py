"""What any storage holds: contract, crowds, crashes, forks and failures."""

KEY = "app.handlers.subscription:news"
ALICE = "alice@people.example"
BOB = "bob@people.example"
