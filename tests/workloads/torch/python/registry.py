"""The checks, by name."""

CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function
