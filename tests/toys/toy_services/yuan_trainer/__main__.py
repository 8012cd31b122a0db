"""Stands in for the real yuan_trainer where the path of tests comes first."""

from toy_work import main

from yuan_manifest.schema import Kind

main("trainer", Kind.pretrain)
