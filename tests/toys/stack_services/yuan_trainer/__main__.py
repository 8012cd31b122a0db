"""Stands in for the real yuan_trainer where the path of tests comes first."""

from toy_stack_service import main

main("trainer")
