"""Faster ways to compute what the plain formulas say, each chosen by measurement on the machine at hand."""
