"""Stands in for the real yuan_converter where the path of tests comes first."""

from toy_stack_service import main

main("converter")
