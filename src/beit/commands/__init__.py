"""The commands of `beit`, by theme; `beit.cli` has the table. Each loads what it needs when it runs."""
